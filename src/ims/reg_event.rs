//! stub
use super::*;
pub struct RegEvent;
pub type SubscriptionId = crate::slots::Id<RegEvent>;
impl RegEvent {
    pub fn new(_: &Config) -> RegEvent {
        RegEvent
    }
    pub fn on_subscribe(
        &mut self,
        _: &mut Stack,
        _: &mut Location,
        _: &Request<'_>,
        _: TxId,
        _: Instant,
        _: &mut Effects,
    ) {
    }
    pub fn on_client_end(
        &mut self,
        _: &mut Stack,
        _: &mut Location,
        _: SubscriptionId,
        _: Option<u16>,
        _: Instant,
        _: &mut Effects,
    ) {
    }
    pub fn on_timer(&mut self, _: &mut Stack, _: &mut Location, _: Timer, _: Instant, _: &mut Effects) {}
    pub fn len(&self) -> usize {
        0
    }
    pub fn forget_all(&mut self, _: &mut Stack, _: &mut Location, _: &mut Effects) {}
}
