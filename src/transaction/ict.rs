//! The INVITE client transaction: RFC 3261 §17.1.1 with RFC 6026 §7.2, and the wait after CANCEL of RFC 3261 §9.1.

use super::{End, Notice, Output, Retransmit, Step};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The INVITE was sent; nothing came yet.
    Calling,
    /// The connection that the INVITE went over has ended, and nothing had come. The server may have read it, and answers over another
    /// connection then (RFC 3261 §18.2.2): one round trip is given to that.
    Unheard,
    /// A provisional response came.
    Proceeding,
    /// A CANCEL was sent, or Timer C has asked for one: a final response is awaited for 64*T1 only (RFC 3261 §9.1).
    Cancelling,
    /// A final response of 300 to 699 came and is acknowledged each time that it comes.
    Completed,
    /// A 2xx came; further ones go to the user (RFC 6026 §7.2).
    Accepted,
    Terminated,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// 100.
    Trying,
    /// 101 to 199.
    Provisional,
    /// 2xx.
    Success,
    /// 300 to 699.
    Failure,
    /// Timer A.
    Retransmit,
    /// The timer that bounds the state: B in Calling, C in Proceeding, D in Completed, M in Accepted.
    End,
    /// The user sends a CANCEL.
    Cancel,
    /// The message could not be sent.
    TransportError,
    /// It was, and its connection has ended without a word.
    Unheard,
}

pub fn step(state: State, input: Input) -> Step<State> {
    use State::*;
    let stay = Step::stay(state);
    match (state, input) {
        // §17.1.1.2: Timer A doubles without a cap; Timer B ends the attempt.
        (Calling, Input::Retransmit) => stay.send(Output::Kept).retransmit(Retransmit::Double),
        (Calling, Input::End) => stay.to(Terminated).notify(Notice::Timeout),
        (Calling | Unheard, Input::TransportError) => stay.to(Terminated).notify(Notice::Unreachable),
        (Calling, Input::Unheard) => stay.to(Unheard).retransmit(Retransmit::Stop).end(End::RoundTrip),
        (Unheard, Input::End) => stay.to(Terminated).notify(Notice::Unreachable),
        // The request has arrived, for it was answered; what comes next may come over another connection (§18.2.2).
        (Proceeding | Cancelling, Input::TransportError) => stay,
        // §17.1.1.2: any provisional stops the retransmissions. §16.6 step 11: Timer C bounds the ringing.
        (Calling | Unheard, Input::Trying | Input::Provisional) => stay
            .to(Proceeding)
            .notify(Notice::Message)
            .retransmit(Retransmit::Stop)
            .end(End::TimerC),
        (Proceeding, Input::Trying) => stay,
        // §16.7 step 2: 101 to 199 start Timer C again.
        (Proceeding, Input::Provisional) => stay.notify(Notice::Message).end(End::TimerC),
        (Proceeding, Input::Cancel) => stay.to(Cancelling).end(End::Timeout),
        // §16.8: Timer C has fired: the user sends a CANCEL.
        (Proceeding, Input::End) => stay.to(Cancelling).notify(Notice::Timeout).end(End::Timeout),
        (Cancelling, Input::Trying | Input::Provisional | Input::Cancel) => stay,
        // §9.1: no final response 64*T1 after the CANCEL: taken for cancelled.
        (Cancelling, Input::End) => stay.to(Terminated).notify(Notice::Ended),
        // RFC 6026 §7.2: 2xx moves to Accepted; the ACK is the user's.
        (Calling | Unheard | Proceeding | Cancelling, Input::Success) => stay
            .to(Accepted)
            .notify(Notice::Message)
            .retransmit(Retransmit::Stop)
            .end(End::Timeout)
            .drop_kept(),
        // §17.1.1.2: 300 to 699: the transaction sends the ACK itself.
        (Calling | Unheard | Proceeding | Cancelling, Input::Failure) => stay
            .to(Completed)
            .send(Output::Ack)
            .notify(Notice::Message)
            .retransmit(Retransmit::Stop)
            .end(End::TimerD),
        (Completed, Input::Failure) => stay.send(Output::Kept),
        (Completed, Input::End | Input::TransportError) => stay.to(Terminated),
        (Accepted, Input::Success) => stay.notify(Notice::Message),
        (Accepted, Input::End) => stay.to(Terminated).notify(Notice::Ended),
        (Unheard | Proceeding | Cancelling | Completed | Accepted, Input::Retransmit) => {
            stay.retransmit(Retransmit::Stop)
        }
        (Calling | Unheard, Input::Cancel) => stay,
        (Unheard | Proceeding | Cancelling | Completed | Accepted, Input::Unheard) => stay,
        (Completed, Input::Trying | Input::Provisional | Input::Success | Input::Cancel) => stay,
        (
            Accepted,
            Input::Trying | Input::Provisional | Input::Failure | Input::Cancel | Input::TransportError,
        ) => stay,
        (
            Terminated,
            Input::Trying
            | Input::Provisional
            | Input::Success
            | Input::Failure
            | Input::Retransmit
            | Input::End
            | Input::Cancel
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
    type Row = (State, I, State, Option<Output>, Option<Notice>);

    /// Every row of figure 5 of RFC 3261 as RFC 6026 §8.4 changes it, and ours for CANCEL and Timer C.
    #[test]
    fn every_row_of_the_table_holds() {
        let rows: &[Row] = &[
            (Calling, I::Trying, Proceeding, None, Some(Notice::Message)),
            (Calling, I::Provisional, Proceeding, None, Some(Notice::Message)),
            (Calling, I::Success, Accepted, None, Some(Notice::Message)),
            (
                Calling,
                I::Failure,
                Completed,
                Some(Output::Ack),
                Some(Notice::Message),
            ),
            (Calling, I::Retransmit, Calling, Some(Output::Kept), None),
            (Calling, I::End, Terminated, None, Some(Notice::Timeout)),
            (Calling, I::Cancel, Calling, None, None),
            (
                Calling,
                I::TransportError,
                Terminated,
                None,
                Some(Notice::Unreachable),
            ),
            (Calling, I::Unheard, Unheard, None, None),
            (Unheard, I::Trying, Proceeding, None, Some(Notice::Message)),
            (Unheard, I::Provisional, Proceeding, None, Some(Notice::Message)),
            (Unheard, I::Success, Accepted, None, Some(Notice::Message)),
            (
                Unheard,
                I::Failure,
                Completed,
                Some(Output::Ack),
                Some(Notice::Message),
            ),
            (Unheard, I::Retransmit, Unheard, None, None),
            (Unheard, I::Unheard, Unheard, None, None),
            (Unheard, I::Cancel, Unheard, None, None),
            (Unheard, I::End, Terminated, None, Some(Notice::Unreachable)),
            (
                Unheard,
                I::TransportError,
                Terminated,
                None,
                Some(Notice::Unreachable),
            ),
            (Proceeding, I::Unheard, Proceeding, None, None),
            (Cancelling, I::Unheard, Cancelling, None, None),
            (Completed, I::Unheard, Completed, None, None),
            (Accepted, I::Unheard, Accepted, None, None),
            (Proceeding, I::Trying, Proceeding, None, None),
            (
                Proceeding,
                I::Provisional,
                Proceeding,
                None,
                Some(Notice::Message),
            ),
            (Proceeding, I::Success, Accepted, None, Some(Notice::Message)),
            (
                Proceeding,
                I::Failure,
                Completed,
                Some(Output::Ack),
                Some(Notice::Message),
            ),
            (Proceeding, I::Retransmit, Proceeding, None, None),
            (Proceeding, I::End, Cancelling, None, Some(Notice::Timeout)),
            (Proceeding, I::Cancel, Cancelling, None, None),
            (Proceeding, I::TransportError, Proceeding, None, None),
            (Cancelling, I::Trying, Cancelling, None, None),
            (Cancelling, I::Provisional, Cancelling, None, None),
            (Cancelling, I::Success, Accepted, None, Some(Notice::Message)),
            (
                Cancelling,
                I::Failure,
                Completed,
                Some(Output::Ack),
                Some(Notice::Message),
            ),
            (Cancelling, I::Retransmit, Cancelling, None, None),
            (Cancelling, I::End, Terminated, None, Some(Notice::Ended)),
            (Cancelling, I::Cancel, Cancelling, None, None),
            (Cancelling, I::TransportError, Cancelling, None, None),
            (Completed, I::Trying, Completed, None, None),
            (Completed, I::Provisional, Completed, None, None),
            (Completed, I::Success, Completed, None, None),
            (Completed, I::Failure, Completed, Some(Output::Kept), None),
            (Completed, I::Retransmit, Completed, None, None),
            (Completed, I::End, Terminated, None, None),
            (Completed, I::Cancel, Completed, None, None),
            (Completed, I::TransportError, Terminated, None, None),
            (Accepted, I::Trying, Accepted, None, None),
            (Accepted, I::Provisional, Accepted, None, None),
            (Accepted, I::Success, Accepted, None, Some(Notice::Message)),
            (Accepted, I::Failure, Accepted, None, None),
            (Accepted, I::Retransmit, Accepted, None, None),
            (Accepted, I::End, Terminated, None, Some(Notice::Ended)),
            (Accepted, I::Cancel, Accepted, None, None),
            (Accepted, I::TransportError, Accepted, None, None),
            (Terminated, I::Success, Terminated, None, None),
            (Terminated, I::Failure, Terminated, None, None),
        ];
        for &(state, input, next, send, notice) in rows {
            let step = step(state, input);
            assert_eq!(
                (step.next, step.send, step.notice),
                (next, send, notice),
                "{state:?} on {input:?}"
            );
        }
    }

    #[test]
    fn timers_follow_the_state() {
        assert_eq!(step(Calling, I::Retransmit).retransmit, Retransmit::Double);
        assert_eq!(step(Calling, I::Provisional).end, End::TimerC);
        assert_eq!(step(Calling, I::Unheard).end, End::RoundTrip);
        assert_eq!(
            step(Proceeding, I::Trying).end,
            End::Keep,
            "100 does not start Timer C again"
        );
        assert_eq!(step(Proceeding, I::Provisional).end, End::TimerC);
        assert_eq!(step(Proceeding, I::Failure).end, End::TimerD);
        assert_eq!(step(Proceeding, I::Success).end, End::Timeout);
        assert_eq!(step(Proceeding, I::Cancel).end, End::Timeout);
    }
}
