//! The callee's half: rings, answers, sends the answer again until it is acknowledged, and agrees to the end.

use std::hash::{DefaultHasher, Hasher};

use super::super::plan::Side;
use super::super::stats::Count;
use super::super::wire::{self, Field, Method, Name, Scan, Values, from_hex8, hex8, user};
use super::{Due, Engine, class};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Ringing,
    /// 200 sent, no ACK yet.
    Answered,
    Confirmed,
}

/// One call that came in.
pub struct Answer {
    generation: u32,
    state: State,
    call_id: u64,
    way: u32,
    /// To the next retransmission of the 200, and when to give up.
    interval: u64,
    deadline: u64,
    text: Vec<u8>,
}

/// Run, answer, generation.
const TAG: usize = 24;

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

impl Engine {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn request(
        &mut self,
        side: Side,
        method: Method,
        phone: u32,
        way: u32,
        message: &[u8],
        scan: &Scan,
        now: u64,
    ) {
        match method {
            Method::Invite if side == Side::Callee => self.invited(phone, way, message, scan, now),
            Method::Ack => match self.answer_of(message, scan) {
                Some(answer) if self.answers[answer as usize].state == State::Answered => {
                    self.answers[answer as usize].state = State::Confirmed;
                }
                Some(_) => self.stats.count(Count::CameAgain),
                None => self.stats.count(Count::Strays),
            },
            Method::Bye => {
                match self.answer_of(message, scan) {
                    Some(answer) => self.release_answer(answer),
                    None => self.stats.count(Count::CameAgain),
                }
                self.agree(side, way, message, scan);
            }
            Method::Message => self.agree(side, way, message, scan),
            Method::Invite | Method::Register | Method::Options | Method::Other => {
                self.stats.count(Count::Unexpected);
                self.agree(side, way, message, scan);
            }
        }
    }

    fn agree(&mut self, side: Side, way: u32, message: &[u8], scan: &Scan) {
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        wire::write_response(
            message,
            scan,
            b"200 OK",
            &self.run,
            b"Content-Length: 0\r\n\r\n",
            &mut out,
        );
        self.send(side, way, class::FINAL, &out);
        self.scratch = out;
    }

    /// The call that the To tag of a request means.
    fn answer_of(&self, message: &[u8], scan: &Scan) -> Option<u32> {
        let tag = scan.value(message, Name::To).and_then(wire::tag_of)?;
        if tag.len() != TAG || tag[..8] != self.run {
            return None;
        }
        let (answer, generation) = (from_hex8(&tag[8..16])?, from_hex8(&tag[16..])?);
        let it = self.answers.get(answer as usize)?;
        (it.generation == generation && it.state != State::Free).then_some(answer)
    }

    fn release_answer(&mut self, answer: u32) {
        let it = &mut self.answers[answer as usize];
        it.state = State::Free;
        it.generation = it.generation.wrapping_add(1);
        self.by_call_id.remove(&it.call_id);
        self.free_answers.push(answer);
    }

    fn invited(&mut self, phone: u32, way: u32, message: &[u8], scan: &Scan, now: u64) {
        let call_id = hash(scan.value(message, Name::CallId).unwrap_or(b""));
        if let Some(answer) = self.by_call_id.get(&call_id) {
            // RFC 3261 §17.2.1: a repeated INVITE brings the last response again. A 200 that was sent is sent again by its own timer.
            self.stats.count(Count::CameAgain);
            let it = &self.answers[*answer as usize];
            let generation = it.generation;
            if it.state == State::Ringing {
                self.ring(*answer, generation, phone, way, message, scan);
            }
            return;
        }
        let answer = self.free_answers.pop().unwrap_or_else(|| {
            self.answers.push(Answer {
                generation: 1,
                state: State::Free,
                call_id: 0,
                way: 0,
                interval: 0,
                deadline: 0,
                text: Vec::new(),
            });
            self.answers.len() as u32 - 1
        });
        self.by_call_id.insert(call_id, answer);
        let generation = self.answers[answer as usize].generation;
        let mut text = std::mem::take(&mut self.answers[answer as usize].text);
        text.clear();
        self.ring(answer, generation, phone, way, message, scan);
        let callee = user(self.plan.callee_prefix(), self.number(phone));
        let values = Values::default()
            .with(Field::Callee, &callee)
            .with(Field::Local, self.callees.text(phone));
        self.scratch.clear();
        self.texts.answer_end.write(&values, &mut self.scratch);
        wire::write_response(
            message,
            scan,
            b"200 OK",
            &self.tag(answer, generation),
            &self.scratch,
            &mut text,
        );
        let t1 = self.plan.t1 * 1_000_000;
        let it = &mut self.answers[answer as usize];
        (it.state, it.call_id, it.way) = (State::Ringing, call_id, way);
        (it.interval, it.text) = (t1, text);
        if self.plan.ring == 0 {
            self.answer_again(answer, generation, now);
        } else {
            self.wheel.set(
                now + self.plan.ring * 1_000_000,
                Due::Answer { answer, generation },
            );
        }
    }

    fn tag(&self, answer: u32, generation: u32) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag[..8].copy_from_slice(&self.run);
        tag[8..16].copy_from_slice(&hex8(answer));
        tag[16..].copy_from_slice(&hex8(generation));
        tag
    }

    fn ring(&mut self, answer: u32, generation: u32, phone: u32, way: u32, message: &[u8], scan: &Scan) {
        let callee = user(self.plan.callee_prefix(), self.number(phone));
        let values = Values::default()
            .with(Field::Callee, &callee)
            .with(Field::Local, self.callees.text(phone));
        self.scratch.clear();
        self.texts.ringing_end.write(&values, &mut self.scratch);
        let mut out = std::mem::take(&mut self.second_scratch);
        out.clear();
        wire::write_response(
            message,
            scan,
            b"180 Ringing",
            &self.tag(answer, generation),
            &self.scratch,
            &mut out,
        );
        self.send(Side::Callee, way, class::PROVISIONAL, &out);
        self.second_scratch = out;
    }

    /// Sends the 200 for the first time, or again as long as no ACK came (RFC 3261 §13.3.1.4, on every transport).
    pub(super) fn answer_again(&mut self, answer: u32, generation: u32, now: u64) {
        let t1 = self.plan.t1 * 1_000_000;
        let Some(it) = self.answers.get_mut(answer as usize) else {
            return;
        };
        if it.generation != generation {
            return;
        }
        match it.state {
            State::Free | State::Confirmed => return,
            State::Ringing => {
                it.state = State::Answered;
                it.deadline = now + 64 * t1;
            }
            State::Answered if now >= it.deadline => {
                self.stats.count(Count::UnackedAnswers);
                self.release_answer(answer);
                return;
            }
            State::Answered => {
                self.stats.count(Count::SentAgain);
                it.interval = (it.interval * 2).min(8 * t1);
            }
        }
        let it = &mut self.answers[answer as usize];
        let (at, way, text) = (now + it.interval, it.way, std::mem::take(&mut it.text));
        self.wheel.set(at, Due::Answer { answer, generation });
        self.send(Side::Callee, way, class::FINAL, &text);
        self.answers[answer as usize].text = text;
    }
}
