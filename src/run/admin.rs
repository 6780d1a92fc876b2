//! The admin server of a running server: its sockets, and the loop that carries out what comes over the desk.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{ADMIN_LISTEN_DEFAULT, Config};
use crate::control::api::{Api, router};
use crate::control::collect::Collector;
use crate::control::desk::{Order, desk};
use crate::control::listen::{self, Bounds, Socket};
use crate::control::lock;
use crate::control::status::{Facts, Outlets};
use crate::logging;

use super::Server;

/// Orders that can wait for the server.
const ORDERS_MAX: usize = 16;

pub(super) struct Admin {
    facts: Arc<Facts>,
    orders: mpsc::Receiver<Order>,
    carrier: JoinHandle<()>,
    /// Its file goes with it.
    _socket: Option<Socket>,
}

impl Admin {
    /// # Errors
    /// The configured address can't be served; the text says why.
    pub async fn start(
        server: &Server,
        collector: &Collector,
        outlets: Outlets,
        cfg: &Config,
    ) -> Result<Admin, String> {
        let clock = server.clock;
        let listeners = server.listeners.clone();
        let listening = move || lock(&listeners).bound();
        let facts = Facts::new(
            server.metrics.clone(),
            listening,
            server.trunks.clone(),
            outlets,
            move || clock.now(),
            move || clock.date_shift(),
        );
        let facts = Arc::new(facts);
        let (desk, mut jobs) = desk(server.metrics.len());
        let (order_in, orders) = mpsc::channel(ORDERS_MAX);
        let api = Api {
            facts: facts.clone(),
            history: collector.history(),
            desk,
            set_log: logging::set_level,
        };
        let socket = serve(cfg, api).await?;
        let ports = Rc::clone(&server.ports);
        let carrier = tokio::task::spawn_local(async move {
            while let Some(job) = jobs.recv().await {
                if let Some(order) = job.carry_out(&ports) {
                    // One that finds no room is dropped, which tells whoever waits for its answer.
                    let _ = order_in.try_send(order);
                }
            }
        });
        Ok(Admin {
            facts,
            orders,
            carrier,
            _socket: socket,
        })
    }

    /// What somebody who runs the server wants of it.
    pub async fn ordered(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            // Whoever hands them on has ended: there will be none.
            None => std::future::pending().await,
        }
    }

    /// Limits that were reached here, by the key that sets them, and how often.
    pub fn limits_reached(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.facts.limits_reached()
    }

    /// The server drains: it takes no orders any more, and says so to those who ask.
    pub fn set_draining(&mut self) {
        self.facts.set_draining();
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
    }

    /// Takes no more jobs.
    pub async fn end(self) {
        self.carrier.abort();
        let _ = self.carrier.await;
    }
}

/// Opens the admin server's sockets. That a default is taken, or may not be used, is told and no more.
async fn serve(cfg: &Config, api: Api) -> Result<Option<Socket>, String> {
    let bounds = Bounds {
        connections_max: cfg.admin.connections_max,
        head_timeout: cfg.admin.head_timeout,
        counts: api.facts.admin.clone(),
    };
    let router = router(api);
    if let Some(addr) = cfg.admin.listen {
        match listen::http(addr, cfg.admin.token.clone(), router.clone(), bounds.clone()).await {
            Ok(addr) => tracing::info!(%addr, "admin server"),
            Err(error) if addr == ADMIN_LISTEN_DEFAULT => {
                tracing::warn!(%addr, %error, "no admin server: set [admin] listen, or \"\" for none");
            }
            Err(error) => return Err(format!("the admin server can't listen on {addr}: {error}")),
        }
    }
    let Some(path) = &cfg.admin.socket else {
        return Ok(None);
    };
    match listen::unix(path, router, bounds).await {
        Ok(socket) => {
            tracing::info!(path = %path.display(), "admin socket");
            Ok(Some(socket))
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no admin socket: ringway status and others can't ask");
            Ok(None)
        }
    }
}
