//! What a shard has, for people to read: a page at a time, each no more work than a turn may take.

use crate::b2bua::CallView;
use crate::config::Config;
use crate::json::{Object, Page};
use crate::location::{Aor, Binding, seconds_left};
use crate::msg::uri::Uri;
use crate::pool::Pool;
use crate::port::Listing;
use crate::time::Instant;
use crate::wire::Flow;

use super::Shard;

/// Slots looked at for one page: the most that a listing holds a turn up.
const SLOTS_PER_PAGE: u32 = 4_096;
/// Entries of one page.
const ENTRIES_PER_PAGE: usize = 256;
/// Texts of an entry that fills more than a page are cut to this. A call forked to `limits.forks_max` phones, 64 at most, fits then, whatever
/// is in its texts.
const CUT_TEXT_BYTES: usize = 128;

impl Shard {
    /// Writes what there is from slot `cursor` on into `page`. The slot to go on from, or `None` at the end.
    pub(super) fn list(
        &self,
        listing: Listing,
        cursor: u32,
        wanted: &[u8],
        page: &mut Page,
        now: Instant,
        pool: &Pool,
    ) -> Option<u32> {
        if listing == Listing::Registrations && !wanted.is_empty() {
            return self.list_subscriber(cursor, wanted, page, now, pool);
        }
        let slots = match listing {
            Listing::Registrations => self.ims.location.slots(),
            Listing::Calls => self.ims.calls.slots(),
            Listing::Subscriptions => self.ims.reg_event.slots(),
            Listing::Connections => self.streams.slots(),
        };
        let end = slots.min(cursor.saturating_add(SLOTS_PER_PAGE));
        for slot in cursor..end {
            if page.entries() == ENTRIES_PER_PAGE {
                return Some(slot);
            }
            if self.list_slot(listing, slot, wanted, page, now, pool) {
                continue;
            }
            if !page.is_empty() {
                return Some(slot);
            }
            // Nobody hides behind long texts.
            page.cut_texts(Some(CUT_TEXT_BYTES));
            let _ = self.list_slot(listing, slot, wanted, page, now, pool);
            page.cut_texts(None);
        }
        (end < slots).then_some(end)
    }

    /// Writes what is in one slot. `false`: the page has no room for it.
    fn list_slot(
        &self,
        listing: Listing,
        slot: u32,
        wanted: &[u8],
        page: &mut Page,
        now: Instant,
        pool: &Pool,
    ) -> bool {
        match listing {
            Listing::Registrations => self
                .ims
                .location
                .binding_at(slot)
                .is_none_or(|binding| page.entry(|entry| put_binding(entry, binding, now, pool))),
            Listing::Calls => self.list_call(slot, wanted, page, now, pool),
            Listing::Subscriptions => self.ims.reg_event.subscription_at(slot, pool).is_none_or(|view| {
                page.entry(|entry| {
                    entry.text("aor", view.aor);
                    entry.text("subscriber", view.target);
                    entry.text("call_id", view.call_id);
                    put_flow(entry, view.flow);
                    entry.number("expires_s", seconds_left(view.expires_at, now));
                })
            }),
            Listing::Connections => self.list_connection(slot, page, now),
        }
    }

    /// Writes the contacts of one subscriber from the one with the number `cursor` on. The number to go on from, or `None` at the end.
    fn list_subscriber(
        &self,
        cursor: u32,
        aor: &[u8],
        page: &mut Page,
        now: Instant,
        pool: &Pool,
    ) -> Option<u32> {
        let aor = aor_of(aor, &self.stack.cfg)?;
        let bindings = self.ims.location.bindings_of(self.ims.aors.key(&aor));
        for (number, (_, binding)) in (0..).zip(bindings).skip(cursor as usize) {
            if page.entries() == ENTRIES_PER_PAGE {
                return Some(number);
            }
            if page.entry(|entry| put_binding(entry, binding, now, pool)) {
                continue;
            }
            if !page.is_empty() {
                return Some(number);
            }
            page.cut_texts(Some(CUT_TEXT_BYTES));
            let _ = page.entry(|entry| put_binding(entry, binding, now, pool));
            page.cut_texts(None);
        }
        None
    }

    fn list_call(&self, slot: u32, wanted: &[u8], page: &mut Page, now: Instant, pool: &Pool) -> bool {
        let Some(view) = self.ims.calls.call_at(slot) else {
            return true;
        };
        if !wanted.is_empty() && !view.legs(pool).any(|leg| leg.dialog.call_id == wanted) {
            return true;
        }
        page.entry(|entry| put_call(entry, &view, now, pool, self.stack.shard.0))
    }

    fn list_connection(&self, slot: u32, page: &mut Page, now: Instant) -> bool {
        let Some(stream) = self.streams.id_at(slot).and_then(|id| self.streams.get(id)) else {
            return true;
        };
        page.entry(|entry| {
            entry.number("shard", self.stack.shard.0.into());
            put_flow(entry, stream.flow);
            entry.number("idle_s", now.since(stream.last_received).as_secs());
        })
    }
}

/// The subscriber that `text` names: a URI, or `user@domain`, or the user part where one domain is served.
pub(super) fn aor_of(text: &[u8], cfg: &Config) -> Option<Aor> {
    let mut uri = [0; 256];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        let to = uri.get_mut(len..len + bytes.len())?;
        to.copy_from_slice(bytes);
        len += bytes.len();
        Some(())
    };
    let has_scheme = [&b"sip:"[..], b"sips:", b"tel:"]
        .iter()
        .any(|scheme| text.len() >= scheme.len() && text[..scheme.len()].eq_ignore_ascii_case(scheme));
    if !has_scheme {
        put(b"sip:")?;
    }
    put(text)?;
    if !has_scheme && !text.contains(&b'@') {
        put(b"@")?;
        put(cfg
            .domains
            .first()
            .map_or(&b"localhost"[..], |domain| domain.as_bytes()))?;
    }
    Aor::from_uri(&Uri::parse(&uri[..len]).ok()?, cfg).ok()
}

fn put_flow(entry: &mut Object<'_>, flow: Flow) {
    entry.text("transport", flow.transport.name().as_bytes());
    entry.shown("peer", flow.peer);
}

fn put_binding(entry: &mut Object<'_>, binding: &Binding, now: Instant, pool: &Pool) {
    let said = &binding.said;
    entry.text("aor", said.text.aor(pool));
    entry.text("contact", said.text.uri(pool));
    entry.number("expires_s", seconds_left(said.expires_at, now));
    put_flow(entry, said.flow);
    entry.number("registered_s", now.since(binding.registered_at).as_secs());
    entry.text("params", said.text.params(pool));
    entry.text("call_id", said.text.call_id(pool));
    let path = said.text.path(pool);
    if !path.is_empty() {
        entry.text("path", path);
    }
    if let Some(reg_id) = said.reg_id {
        entry.number("reg_id", reg_id.get().into());
    }
}

fn put_call(entry: &mut Object<'_>, view: &CallView<'_>, now: Instant, pool: &Pool, shard: u8) {
    entry.number("shard", shard.into());
    entry.shown("id", format_args!("{}.{}", view.id.slot, view.id.generation));
    entry.text("state", view.state().as_bytes());
    entry.number("since_ms", view.begun_at().as_millis());
    entry.number("age_s", now.since(view.begun_at()).as_secs());
    entry.list("legs", |legs| {
        for leg in view.legs(pool) {
            legs.object(|entry| {
                entry.text("side", leg.side.as_bytes());
                entry.text("call_id", leg.dialog.call_id);
                entry.text("local", leg.dialog.local);
                entry.text("remote", leg.dialog.remote);
                entry.text("target", leg.dialog.target);
                put_flow(entry, leg.flow);
            });
        }
    });
}
