//! How a response goes back on the server transaction of its request.

use crate::msg::request::Response;
use crate::msg::scan::{Message, scan};
use crate::pool::BufId;
use crate::time::Instant;
use crate::transaction::Stack;
use crate::wire::{Effects, Flow};

use super::asked::Asked;
use super::learn::is_acceptance;
use super::session::Granted;
use super::write::{FORWARD_SLACK, FORWARD_SLACK_USUAL, write_response};
use super::{B2bua, ExchangeId};

impl B2bua {
    /// Sends a response back on the server transaction of its exchange. `false`: it could not be written.
    pub(super) fn pass_back(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        response: &Response<'_>,
        now: Instant,
        out: &mut Effects,
    ) -> bool {
        let Some(exchange) = self.exchanges.get(id) else {
            return false;
        };
        if exchange.is_answered {
            return true;
        }
        let Some(server) = exchange.server else {
            self.mark_answered(id, response.status, out);
            return true;
        };
        let Some(asked) = exchange.asked else {
            return false;
        };
        let granted = match response.status {
            200..=299 => exchange.refresh.granted(response),
            _ => Granted::Unchanged,
        };
        let accepts = is_acceptance(response);
        let flow = match accepts {
            true => self.flow_when_accepted(stack, exchange, &out.pool),
            false => self.legs.get(exchange.from).map(|leg| leg.flow),
        };
        let Some(buf) = flow.and_then(|flow| self.write_back(stack, &asked, flow, granted, response, out))
        else {
            return false;
        };
        if accepts {
            self.take_new_target(stack, id, out);
        }
        self.note_response(id, response, now);
        self.mark_answered(id, response.status, out);
        stack.send_response(server, response.status, buf, now, out);
        true
    }

    fn mark_answered(&mut self, id: ExchangeId, status: u16, out: &mut Effects) {
        if status < 200 {
            return;
        }
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.is_answered = true;
        }
        self.drop_request(id, out);
    }

    pub(super) fn drop_request(&mut self, id: ExchangeId, out: &mut Effects) {
        if let Some(asked) = self
            .exchanges
            .get_mut(id)
            .and_then(|exchange| exchange.asked.take())
        {
            asked.release(&mut out.pool);
        }
    }

    fn write_back(
        &mut self,
        stack: &Stack,
        asked: &Asked,
        flow: Flow,
        granted: Granted,
        response: &Response<'_>,
        out: &mut Effects,
    ) -> Option<BufId> {
        let most = response.msg.len() + asked.len(&out.pool) + FORWARD_SLACK;
        // The lines of the request take the place of these.
        let left_out = [
            response.via.raw,
            response.from.raw,
            response.to.raw,
            response.call_id,
        ];
        let left_out: usize = left_out.iter().map(|text| text.len()).sum();
        let usual = most - FORWARD_SLACK + FORWARD_SLACK_USUAL - left_out;
        stack.write_fitting((usual, most), &mut out.pool, |dst, pool| {
            write_response(stack, response, &asked.lines(pool), flow, granted, dst)
        })
    }

    /// Sends back a response that was kept while other phones rang.
    pub(super) fn pass_back_kept(
        &mut self,
        stack: &mut Stack,
        id: ExchangeId,
        buf: BufId,
        now: Instant,
        out: &mut Effects,
    ) {
        let Some(mut table) = self.second_table.take() else {
            return;
        };
        let copy: Box<[u8]> = out.pool.get(buf).into();
        let passed = scan(&copy, &mut table).is_ok()
            && Response::check(Message {
                bytes: &copy,
                table: &table,
            })
            .is_ok_and(|response| self.pass_back(stack, id, &response, now, out));
        self.second_table = Some(table);
        if !passed {
            self.reject(stack, id, (500, "Server Internal Error"), b"", now, out);
        }
    }
}
