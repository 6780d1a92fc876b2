//! Reading the configuration again while the server runs (SIGHUP, `ringway reload`).

use std::sync::Arc;
use std::time::Duration;

use crate::config::reload::{Reload, Reloaded};
use crate::config::{Config, Loaded, Machine, Source, reload};
use crate::control::lock;
use crate::io::socket::raise_open_files;
use crate::logging;
use crate::port::{Ask, ConfigId};

use super::Server;

/// How often it is looked whether every shard goes by a new configuration, and for how long.
const TAKEN_UP_LOOK_INTERVAL: Duration = Duration::from_millis(2);
const TAKEN_UP_PATIENCE: Duration = Duration::from_secs(5);

/// What is served, and where it came from.
pub struct Configured {
    source: Source,
    /// As it was at the start.
    machine: Machine,
    /// As the file asks for it: the listeners are not yet bound.
    asked: Config,
    id: ConfigId,
    /// All that a shard may still have: none is freed on a shard.
    held: Vec<Arc<Config>>,
}

impl Configured {
    /// `asked` is what `source` has given on `machine`.
    pub fn new(source: Source, machine: Machine, asked: Config) -> Configured {
        Configured {
            source,
            machine,
            asked,
            id: ConfigId::FIRST,
            held: Vec::new(),
        }
    }

    /// What is served now.
    pub fn config(&self) -> &Config {
        &self.asked
    }

    /// Reads the configuration again, and has `server` go by it. `by` says who wants it, for the log. Nobody's call or registration ends
    /// by it.
    ///
    /// # Errors
    /// What is wrong with the file; nothing has changed then.
    pub async fn reload(&mut self, server: &Server, by: &str) -> Result<Reloaded, String> {
        let file = self.source.file.as_ref();
        let shown = file.map_or("none".to_owned(), |file| file.display().to_string());
        let wanted = match self.source.load(&self.machine.again()) {
            Ok(loaded) => loaded,
            Err(errors) => return Err(refused(errors.to_string(), by, &shown)),
        };
        let Loaded { config, notices } = wanted;
        logging::log_notices(&notices);
        let Reload {
            config,
            changed,
            waiting,
        } = reload::reload(&self.asked, &config);
        // What may fail comes first: a listener that can't be had leaves everything as it was.
        if config.listeners != self.asked.listeners {
            server
                .relisten(&config)
                .map_err(|error| refused(error, by, &shown))?;
        }
        if config.log != self.asked.log {
            logging::set_level(&config.log)?;
        }
        if config.limits.connections_max > self.asked.limits.connections_max {
            raise_open_files(&config);
        }
        if config != self.asked {
            self.hand_out(server, config).await;
        }
        for change in &changed {
            tracing::info!(key = change.key, from = %change.from, to = %change.to, "changed");
        }
        for change in &waiting {
            tracing::warn!(
                key = change.key,
                from = %change.from,
                to = %change.to,
                "changes at the next start"
            );
        }
        let reloaded = Reloaded { changed, waiting };
        tracing::info!(by, file = shown, "reloaded: {reloaded}");
        Ok(reloaded)
    }

    /// Closes the listeners whose time has come.
    pub async fn close_listeners(&mut self, server: &Server) {
        let is_due = lock(&server.listeners).close_due(server.clock.now());
        if is_due {
            self.hand_out(server, self.asked.clone()).await;
        }
    }

    /// Has the shards go by the addresses that this machine has now, where they matter.
    pub async fn look_at_addresses(&mut self, server: &Server) {
        let now = {
            let mut listeners = lock(&server.listeners);
            let has_changed = listeners.look_at_addresses();
            has_changed.then(|| listeners.local_addresses().to_vec())
        };
        if let Some(addresses) = now {
            tracing::info!(?addresses, "the addresses of this machine have changed");
            self.hand_out(server, self.asked.clone()).await;
        }
    }

    /// Gives every shard the configuration, and waits until it goes by it.
    async fn hand_out(&mut self, server: &Server, config: Config) {
        self.id = self.id.next();
        let id = self.id;
        let mut bound = config.clone();
        {
            // Rules speak of the listeners in the order of the file, shards in that of their places.
            let mut listeners = lock(&server.listeners);
            listeners.look_at_addresses();
            bound.listeners = listeners.bound();
            bound.local_addresses = listeners.local_addresses().to_vec();
            for route in &mut bound.routes {
                route.listener_bits = listeners.bits_of_places(route.listener_bits, &config.listeners);
            }
        }
        self.asked = config;
        // What no shard has any more goes here, and not on a shard.
        self.held.retain(|config| Arc::strong_count(config) > 1);
        let bound = Arc::new(bound);
        server.trunks.set(&bound, server.boards.of(id, &bound));
        self.held.push(bound.clone());
        server.ports.order(|| Ask::Config {
            id,
            config: bound.clone(),
        });
        drop(bound);
        let all_have_it = async {
            while (server.metrics.iter()).any(|metrics| metrics.config_id.get() != u64::from(id.0)) {
                tokio::time::sleep(TAKEN_UP_LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(TAKEN_UP_PATIENCE, all_have_it)
            .await
            .is_err()
        {
            tracing::error!(
                "a shard has not taken up the new configuration yet: it hangs, or has very much to do"
            );
        }
    }
}

/// Tells the log why nothing has changed; gives the same back.
fn refused(errors: String, by: &str, file: &str) -> String {
    // One line each: a log is read by lines.
    for error in errors.lines() {
        tracing::error!("not reloaded: {error}");
    }
    tracing::error!(by, file, "not reloaded: the configuration stays as it was");
    errors
}
