//! What ringway says about itself: topics for `ringway help TOPIC`, shell completions and man pages.
//!
//! The topics are text files beside this one, so that they read here as they do on the terminal.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::Command;

/// A page of `ringway help`.
pub struct Topic {
    pub name: &'static str,
    /// One line for the list of topics.
    pub about: &'static str,
    pub text: &'static str,
}

pub static TOPICS: &[Topic] = &[
    Topic {
        name: "admin",
        about: "how to ask a running server, over its socket and over HTTP",
        text: include_str!("help/admin.txt"),
    },
    Topic {
        name: "config",
        about: "how a configuration is written, checked and overridden",
        text: include_str!("help/config.txt"),
    },
    Topic {
        name: "exit-codes",
        about: "what a script can rely on",
        text: include_str!("help/exit-codes.txt"),
    },
    Topic {
        name: "histograms",
        about: "how to read the time in the server",
        text: include_str!("help/histograms.txt"),
    },
    Topic {
        name: "logs",
        about: "what the log tells, to a file, as JSON and in the journal",
        text: include_str!("help/logs.txt"),
    },
    Topic {
        name: "phones",
        about: "how to set up phones, and what they may ask for",
        text: include_str!("help/phones.txt"),
    },
    Topic {
        name: "records",
        about: "call records: a line of JSON for each call",
        text: include_str!("help/records.txt"),
    },
    Topic {
        name: "reload",
        about: "what changes while it serves, and what waits for a restart",
        text: include_str!("help/reload.txt"),
    },
    Topic {
        name: "signals",
        about: "SIGTERM, SIGINT, SIGHUP, and the service manager",
        text: include_str!("help/signals.txt"),
    },
    Topic {
        name: "sipp",
        about: "how to load it with SIPp and ringway-load",
        text: include_str!("help/sipp.txt"),
    },
    Topic {
        name: "tracing",
        about: "how to see the messages of a call",
        text: include_str!("help/tracing.txt"),
    },
    Topic {
        name: "trunks",
        about: "servers that stand for one another, and how each of them stands",
        text: include_str!("help/trunks.txt"),
    },
];

/// What `ringway help [WORD]` prints: the list, a topic, or the long help of a command.
///
/// # Errors
/// There is neither a topic nor a command of that name; the text says which come close.
pub fn page(command: Command, word: Option<&str>) -> Result<String, String> {
    let mut command = command;
    command.build();
    let Some(word) = word else {
        return Ok(format!("{}\n{}", command.render_help(), list()));
    };
    if let Some(topic) = TOPICS.iter().find(|topic| topic.name == word) {
        return Ok(topic.text.to_owned());
    }
    if let Some(found) = command.find_subcommand_mut(word) {
        return Ok(found.render_long_help().to_string());
    }
    let names = TOPICS.iter().map(|topic| topic.name);
    let commands = command.get_subcommands().map(Command::get_name);
    let hint = crate::config::near_miss(word, names.chain(commands))
        .map(|name| format!("; did you mean {name:?}?"))
        .unwrap_or_default();
    Err(format!(
        "no topic and no command is called {word:?}{hint}\n\n{}",
        list()
    ))
}

fn list() -> String {
    let mut text = "Topics (ringway help TOPIC):\n".to_owned();
    for topic in TOPICS {
        writeln!(text, "  {:<14}  {}", topic.name, topic.about).expect("a String takes everything");
    }
    text
}

/// The completion script of `shell`.
pub fn completions(command: &mut Command, shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "ringway", &mut script);
    script
}

/// Writes `ringway.1` and a page for each command (`ringway-run.1` and so on) into `directory`.
///
/// # Errors
/// A page that can't be written.
pub fn man_pages(command: Command, directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_in_the_list_and_reads_on_a_terminal() {
        let list = list();
        for topic in TOPICS {
            assert!(list.contains(topic.name) && list.contains(topic.about));
            assert!(topic.text.ends_with('\n'), "{}", topic.name);
            for line in topic.text.lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", topic.name);
            }
        }
    }

    #[test]
    fn a_word_is_a_topic_or_a_command_or_told_what_it_may_have_meant() {
        let command = || Command::new("ringway").subcommand(Command::new("run").about("Serve phones"));
        assert!(page(command(), None).expect("the list").contains("histograms"));
        assert!(
            page(command(), Some("signals"))
                .expect("a topic")
                .contains("SIGTERM")
        );
        assert!(
            page(command(), Some("run"))
                .expect("a command")
                .contains("Serve phones")
        );
        let error = page(command(), Some("histogram")).expect_err("no such thing");
        assert!(error.contains("did you mean \"histograms\"?"), "{error}");
    }
}
