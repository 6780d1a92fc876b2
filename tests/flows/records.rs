//! What call records are there when the server has ended.

use std::path::{Path, PathBuf};

use bench_harness::call;
use bench_harness::links::Transport::Tcp;
use bench_harness::seed;

use crate::support::{Setup, refused, registered};

/// A place of its own, which is not there yet.
fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn keeping_records(directory: &Path) -> Setup {
    Setup::new().key("records", "directory", &format!("{directory:?}"))
}

/// All lines of all files.
fn lines(directory: &Path) -> Vec<serde_json::Value> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("text"));
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|line| serde_json::from_str(&line).expect("JSON"))
        .collect()
}

#[test]
fn each_call_leaves_a_line_and_the_last_ones_are_written_at_the_end() {
    let directory = directory("records");
    registered(keeping_records(&directory).flags(&["--shards", "2"]), |s| {
        let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        call::hang_up(&mut s.ue2, &mut s.ue1, &mut call.callee)?;
        let invite = seed::invite(&mut s.ue1, "13800019999", Tcp);
        s.ue1.send(&invite, Tcp)?;
        refused(&mut s.ue1, &invite, 404, Tcp)?;
        let standing = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
        s.server.terminate();
        // Two signals that are not taken apart are one.
        s.server.logged("draining", "calls");
        s.server.terminate();
        for phone in [&mut s.ue1, &mut s.ue2] {
            let bye = phone.expect("BYE")?;
            phone.answers(&bye, 200, "OK")?;
        }
        drop(standing);
        s.server.wait();
        Ok(())
    });
    let mut lines = lines(&directory);
    lines.sort_by_key(|line| line["began"].as_str().map(str::to_owned));
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("reason"), ["callee_hung_up", "refused", "shutdown"]);
    assert_eq!(of("status"), [200, 404, 200]);
    assert_eq!(lines[0]["q850_cause"], 16);
    assert_eq!(lines[1]["q850_cause"], 1);
    assert!(lines[1]["callee"].is_null());
    let (caller, callee) = (&lines[0]["caller"], &lines[0]["callee"]);
    assert_eq!(caller["transport"], "TCP");
    assert!(
        caller["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.2:"))
    );
    assert!(
        callee["peer"]
            .as_str()
            .is_some_and(|peer| peer.starts_with("127.0.0.3:"))
    );
    assert_ne!(caller["call_id"], callee["call_id"]);
    assert!(caller["media"].is_string() && callee["media"].is_string());
    assert!(lines[0]["answered"].is_string() && lines[0]["talk_ms"].is_u64());
    std::fs::remove_dir_all(&directory).expect("to be removed");
}

#[test]
fn calls_go_on_while_records_cant_be_written_and_records_follow_when_they_can() {
    let directory = directory("records-lost");
    registered(keeping_records(&directory), |s| {
        std::fs::remove_dir_all(&directory).expect("to be removed");
        std::fs::write(&directory, "in the way").expect("a file");
        for _ in 0..3 {
            let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        }
        let deadline = std::time::Instant::now() + s.ue1.patience;
        while !s.server.log().contains("call records can't be written") {
            assert!(std::time::Instant::now() < deadline, "{}", s.server.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::fs::remove_file(&directory).expect("to be removed");
        while !s.server.log().contains("call records are written again") {
            assert!(std::time::Instant::now() < deadline, "{}", s.server.log());
            let mut call = call::place(&mut s.ue1, &mut s.ue2, Tcp)?;
            call::hang_up(&mut s.ue1, &mut s.ue2, &mut call.caller)?;
        }
        assert_eq!(s.server.log().matches("can't be written").count(), 1);
        Ok(())
    });
    let lines = lines(&directory);
    assert!(lines.iter().all(|line| line["reason"] == "caller_hung_up"));
    assert!(!lines.is_empty());
    std::fs::remove_dir_all(&directory).expect("to be removed");
}
