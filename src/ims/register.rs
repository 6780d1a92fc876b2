//! stub
use super::*;
pub fn on_register(_: &mut Ims, _: &mut Stack, _: &Request<'_>, _: TxId, _: Instant, _: &mut Effects) {}
pub fn on_timer(_: &mut Ims, _: &mut Stack, _: Timer, _: Instant, _: &mut Effects) {}
