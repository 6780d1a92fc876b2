//! The non-INVITE client transaction: RFC 3261 §17.1.2.

use super::{End, Notice, Output, Retransmit, Step};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Trying,
    /// The connection that the request went over has ended, and nothing had come: the answer may come over another (RFC 3261 §18.2.2), for
    /// which it has one round trip.
    Unheard,
    Proceeding,
    Completed,
    Terminated,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// 1xx.
    Provisional,
    /// 200 to 699.
    Final,
    /// Timer E.
    Retransmit,
    /// Timer F in Trying and Proceeding, Timer K in Completed.
    End,
    TransportError,
    /// The request was sent, and its connection has ended without a word.
    Unheard,
}

pub fn step(state: State, input: Input) -> Step<State> {
    use State::*;
    let stay = Step::stay(state);
    match (state, input) {
        // §17.1.2.2: Timer E doubles up to T2; after a provisional it is T2.
        (Trying, Input::Retransmit) => stay.send(Output::Kept).retransmit(Retransmit::DoubleToT2),
        (Proceeding, Input::Retransmit) => stay.send(Output::Kept).retransmit(Retransmit::AtT2),
        (Trying | Proceeding, Input::Provisional) => stay
            .to(Proceeding)
            .notify(Notice::Message)
            .retransmit(Retransmit::AtT2),
        // The request has arrived after all: the round trip is over, and Timer F bounds the rest.
        (Unheard, Input::Provisional) => stay
            .to(Proceeding)
            .notify(Notice::Message)
            .retransmit(Retransmit::AtT2)
            .end(End::Timeout),
        (Trying | Unheard | Proceeding, Input::Final) => stay
            .to(Completed)
            .notify(Notice::Message)
            .retransmit(Retransmit::Stop)
            .end(End::TimerK)
            .drop_kept(),
        (Trying | Proceeding, Input::End) => stay.to(Terminated).notify(Notice::Timeout),
        (Trying | Unheard, Input::TransportError) => stay.to(Terminated).notify(Notice::Unreachable),
        (Trying, Input::Unheard) => stay.to(Unheard).retransmit(Retransmit::Stop).end(End::RoundTrip),
        (Unheard, Input::End) => stay.to(Terminated).notify(Notice::Unreachable),
        (Unheard, Input::Retransmit) => stay.retransmit(Retransmit::Stop),
        (Unheard | Proceeding | Completed, Input::Unheard) => stay,
        // The request has arrived, for it was answered; what comes next may come over another connection (§18.2.2).
        (Proceeding, Input::TransportError) => stay,
        (Completed, Input::End) => stay.to(Terminated),
        (Completed, Input::Retransmit) => stay.retransmit(Retransmit::Stop),
        // §17.1.2.2: Completed exists to absorb what is retransmitted.
        (Completed, Input::Provisional | Input::Final | Input::TransportError) => stay,
        (
            Terminated,
            Input::Provisional
            | Input::Final
            | Input::Retransmit
            | Input::End
            | Input::TransportError
            | Input::Unheard,
        ) => stay,
    }
}

#[cfg(test)]
mod tests {
    use super::Input as I;
    use super::State::*;
    use super::*;

    /// State and input; next state, what is sent, what is told.
    type Row = (State, I, State, Option<Output>, Option<Notice>, Retransmit);

    /// Every row of figure 6 of RFC 3261.
    #[test]
    fn every_row_of_the_table_holds() {
        let rows: &[Row] = &[
            (
                Trying,
                I::Provisional,
                Proceeding,
                None,
                Some(Notice::Message),
                Retransmit::AtT2,
            ),
            (
                Trying,
                I::Final,
                Completed,
                None,
                Some(Notice::Message),
                Retransmit::Stop,
            ),
            (
                Trying,
                I::Retransmit,
                Trying,
                Some(Output::Kept),
                None,
                Retransmit::DoubleToT2,
            ),
            (
                Trying,
                I::End,
                Terminated,
                None,
                Some(Notice::Timeout),
                Retransmit::Keep,
            ),
            (
                Trying,
                I::TransportError,
                Terminated,
                None,
                Some(Notice::Unreachable),
                Retransmit::Keep,
            ),
            (
                Proceeding,
                I::Provisional,
                Proceeding,
                None,
                Some(Notice::Message),
                Retransmit::AtT2,
            ),
            (
                Proceeding,
                I::Final,
                Completed,
                None,
                Some(Notice::Message),
                Retransmit::Stop,
            ),
            (
                Proceeding,
                I::Retransmit,
                Proceeding,
                Some(Output::Kept),
                None,
                Retransmit::AtT2,
            ),
            (
                Proceeding,
                I::End,
                Terminated,
                None,
                Some(Notice::Timeout),
                Retransmit::Keep,
            ),
            (
                Proceeding,
                I::TransportError,
                Proceeding,
                None,
                None,
                Retransmit::Keep,
            ),
            (Completed, I::Provisional, Completed, None, None, Retransmit::Keep),
            (Completed, I::Final, Completed, None, None, Retransmit::Keep),
            (Completed, I::Retransmit, Completed, None, None, Retransmit::Stop),
            (Completed, I::End, Terminated, None, None, Retransmit::Keep),
            (
                Completed,
                I::TransportError,
                Completed,
                None,
                None,
                Retransmit::Keep,
            ),
            (Trying, I::Unheard, Unheard, None, None, Retransmit::Stop),
            (
                Unheard,
                I::Provisional,
                Proceeding,
                None,
                Some(Notice::Message),
                Retransmit::AtT2,
            ),
            (
                Unheard,
                I::Final,
                Completed,
                None,
                Some(Notice::Message),
                Retransmit::Stop,
            ),
            (
                Unheard,
                I::End,
                Terminated,
                None,
                Some(Notice::Unreachable),
                Retransmit::Keep,
            ),
            (
                Unheard,
                I::TransportError,
                Terminated,
                None,
                Some(Notice::Unreachable),
                Retransmit::Keep,
            ),
            (Unheard, I::Unheard, Unheard, None, None, Retransmit::Keep),
            (Proceeding, I::Unheard, Proceeding, None, None, Retransmit::Keep),
        ];
        for &(state, input, next, send, notice, retransmit) in rows {
            let step = step(state, input);
            assert_eq!(
                (step.next, step.send, step.notice, step.retransmit),
                (next, send, notice, retransmit),
                "{state:?} on {input:?}"
            );
        }
        assert_eq!(step(Trying, I::Final).end, End::TimerK);
        assert_eq!(step(Trying, I::Unheard).end, End::RoundTrip);
        assert_eq!(step(Unheard, I::Provisional).end, End::Timeout);
        assert_eq!(step(Trying, I::Provisional).end, End::Keep);
    }
}
