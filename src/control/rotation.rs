//! Lines in files of one directory, each file begun at the second that its name says. A file that is large or old enough is
//! followed by the next, and when there are too many the oldest goes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_uring::fs::{File, OpenOptions};

use crate::time::{DateShift, Instant};

/// What the files are called, and how large, old and many they may be.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// It is made where it is missing.
    pub directory: PathBuf,
    pub prefix: &'static str,
    pub suffix: &'static str,
    pub bytes_max: u64,
    pub age_max: Duration,
    /// The one being written included.
    pub files_max: usize,
}

pub struct RotatedFiles {
    rotation: Rotation,
    current: Option<Current>,
    /// The second of the last file: no two have the same.
    last_begun: u64,
}

struct Current {
    file: File,
    path: PathBuf,
    len: u64,
    begun: Instant,
}

impl RotatedFiles {
    /// Begins the first file, so that it is known at once whether that can be done.
    ///
    /// # Errors
    /// The directory can't be made, or no file in it.
    pub async fn open(rotation: Rotation, now: Instant, dates: DateShift) -> io::Result<RotatedFiles> {
        let mut files = RotatedFiles {
            rotation,
            current: None,
            last_begun: 0,
        };
        files.begin(now, dates).await?;
        Ok(files)
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// Nothing of `lines` is in a file: the disk is full, or the directory is gone. The next call tries again.
    pub async fn append(&mut self, lines: Vec<u8>, now: Instant, dates: DateShift) -> io::Result<()> {
        let (len, rotation) = (lines.len() as u64, &self.rotation);
        let is_done = |current: &Current| {
            let is_old = now.since(current.begun) >= rotation.age_max;
            // A directory that was cleared takes its open file with it.
            current.len > 0 && (is_old || current.len + len > rotation.bytes_max) || !current.path.exists()
        };
        if self.current.as_ref().is_none_or(is_done) {
            self.begin(now, dates).await?;
        }
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let (written, _) = current.file.write_all_at(lines, current.len).await;
        match written {
            Ok(()) => {
                let is_first = current.len == 0;
                current.len += len;
                if is_first {
                    self.remove_old()?;
                }
                Ok(())
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// What was written of lines that failed goes again; a file that has nothing else goes whole, or a disk that stays full would
    /// push out the good ones.
    fn give_up(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        let _ = match current.len {
            0 => fs::remove_file(&current.path),
            len => fs::OpenOptions::new()
                .write(true)
                .open(&current.path)
                .and_then(|file| file.set_len(len)),
        };
    }

    async fn begin(&mut self, now: Instant, dates: DateShift) -> io::Result<()> {
        fs::create_dir_all(&self.rotation.directory)?;
        if let Some(last) = self.current.take() {
            last.file.close().await?;
        }
        let mut second = dates.date(now).unix_secs().max(self.last_begun + 1);
        let (file, path) = loop {
            let Rotation { prefix, suffix, .. } = self.rotation;
            let path = self.rotation.directory.join(format!("{prefix}{second}{suffix}"));
            let opened = OpenOptions::new().write(true).create_new(true).open(&path).await;
            match opened {
                Ok(file) => break (file, path),
                // That of a server that ran in this second before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => second += 1,
                Err(error) => return Err(error),
            }
        };
        self.last_begun = second;
        self.current = Some(Current {
            file,
            path,
            len: 0,
            begun: now,
        });
        Ok(())
    }

    fn remove_old(&self) -> io::Result<()> {
        let Rotation { prefix, suffix, .. } = self.rotation;
        let mut begun: Vec<u64> = fs::read_dir(&self.rotation.directory)?
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?
                    .strip_prefix(prefix)?
                    .strip_suffix(suffix)?
                    .parse()
                    .ok()
            })
            .collect();
        begun.sort_unstable();
        let too_many = begun.len().saturating_sub(self.rotation.files_max);
        for second in &begun[..too_many] {
            fs::remove_file(self.rotation.directory.join(format!("{prefix}{second}{suffix}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// An empty place of its own for a test.
    pub fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    pub fn texts(directory: &Path) -> Vec<String> {
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| fs::read_to_string(path).expect("text"))
            .collect()
    }

    const NOW: Instant = Instant::from_millis(1_800_000_000_000);

    fn rotation(directory: &Path) -> Rotation {
        Rotation {
            directory: directory.to_path_buf(),
            prefix: "lines-",
            suffix: ".txt",
            bytes_max: 8,
            age_max: Duration::from_secs(3_600),
            files_max: 3,
        }
    }

    #[test]
    fn a_file_that_would_grow_too_large_is_followed_by_the_next_and_the_oldest_goes() {
        let directory = directory("rotation");
        tokio_uring::start(async {
            let mut files = RotatedFiles::open(rotation(&directory), NOW, DateShift::default())
                .await
                .expect("a file");
            fs::write(directory.join("other.txt"), "").expect("a file");
            for line in [
                "one\n",
                "two\n",
                "three\n",
                "four\n",
                "a line of its own\n",
                "six\n",
            ] {
                files
                    .append(line.into(), NOW, DateShift::default())
                    .await
                    .expect("written");
            }
        });
        assert_eq!(
            texts(&directory),
            ["four\n", "a line of its own\n", "six\n", ""],
            "another's file stays"
        );
        fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_no_empty_files() {
        let directory = directory("rotation-full");
        tokio_uring::start(async {
            let mut files = RotatedFiles::open(rotation(&directory), NOW, DateShift::default())
                .await
                .expect("a file");
            files
                .append(b"one\n".to_vec(), NOW, DateShift::default())
                .await
                .expect("written");
            let full = OpenOptions::new().write(true).open("/dev/full").await;
            files.current.as_mut().expect("a file").file = full.expect("it is there");
            let failed = files.append(b"two\n".to_vec(), NOW, DateShift::default()).await;
            assert!(failed.is_err_and(|error| error.kind() == io::ErrorKind::StorageFull));
            files
                .append(b"three\n".to_vec(), NOW, DateShift::default())
                .await
                .expect("written");
        });
        assert_eq!(texts(&directory), ["one\n", "three\n"]);
        fs::remove_dir_all(&directory).expect("to be removed");
    }

    #[test]
    fn a_directory_that_is_gone_is_made_again_when_it_can_be() {
        let directory = directory("rotation-lost");
        tokio_uring::start(async {
            let mut files = RotatedFiles::open(rotation(&directory), NOW, DateShift::default())
                .await
                .expect("a file");
            fs::remove_dir_all(&directory).expect("to be removed");
            fs::write(&directory, "in the way").expect("a file");
            assert!(
                files
                    .append(b"one\n".to_vec(), NOW, DateShift::default())
                    .await
                    .is_err()
            );
            assert!(
                RotatedFiles::open(rotation(&directory), NOW, DateShift::default())
                    .await
                    .is_err()
            );
            fs::remove_file(&directory).expect("to be removed");
            files
                .append(b"two\n".to_vec(), NOW, DateShift::default())
                .await
                .expect("written");
        });
        assert_eq!(texts(&directory), ["two\n"]);
        fs::remove_dir_all(&directory).expect("to be removed");
    }
}
