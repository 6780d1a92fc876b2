//! The non-INVITE server transaction: RFC 3261 §17.2.2.

use super::{End, Notice, Output, Retransmit, Step};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The request came again.
    Request,
    SendProvisional,
    SendFinal,
    /// Timer E of the client is at T2.
    Late,
    /// Timer J.
    End,
    TransportError,
}

pub fn step(state: State, input: Input) -> Step<State> {
    use State::*;
    let stay = Step::stay(state);
    match (state, input) {
        // §17.2.2: absorbed in Trying, answered with the last response in Proceeding and Completed.
        (Trying, Input::Request) => stay,
        (Proceeding | Completed, Input::Request) => stay.send(Output::Kept),
        (Trying | Proceeding, Input::SendProvisional) => stay.to(Proceeding).send(Output::New),
        (Trying | Proceeding, Input::SendFinal) => stay
            .to(Completed)
            .send(Output::New)
            .retransmit(Retransmit::Stop)
            .end(End::TimerJ),
        // RFC 4320 §4.1: whoever has heard nothing is told that the request has arrived.
        (Trying, Input::Late) => stay.notify(Notice::Unanswered).retransmit(Retransmit::Stop),
        (Proceeding | Completed, Input::Late) => stay.retransmit(Retransmit::Stop),
        // §17.2.2: any other final response from the user is discarded in Completed.
        (Completed, Input::SendProvisional | Input::SendFinal) => stay,
        (Completed, Input::End) => stay.to(Terminated),
        (Trying | Proceeding, Input::End) => stay,
        (Trying | Proceeding | Completed, Input::TransportError) => stay,
        (
            Terminated,
            Input::Request
            | Input::SendProvisional
            | Input::SendFinal
            | Input::Late
            | Input::End
            | Input::TransportError,
        ) => stay,
    }
}

#[cfg(test)]
mod tests {
    use super::Input as I;
    use super::State::*;
    use super::*;

    /// Every row of figure 8 of RFC 3261.
    #[test]
    fn every_row_of_the_table_holds() {
        let rows: &[(State, I, State, Option<Output>, End)] = &[
            (Trying, I::Request, Trying, None, End::Keep),
            (
                Trying,
                I::SendProvisional,
                Proceeding,
                Some(Output::New),
                End::Keep,
            ),
            (Trying, I::SendFinal, Completed, Some(Output::New), End::TimerJ),
            (Proceeding, I::Request, Proceeding, Some(Output::Kept), End::Keep),
            (
                Proceeding,
                I::SendProvisional,
                Proceeding,
                Some(Output::New),
                End::Keep,
            ),
            (
                Proceeding,
                I::SendFinal,
                Completed,
                Some(Output::New),
                End::TimerJ,
            ),
            (Completed, I::Request, Completed, Some(Output::Kept), End::Keep),
            (Completed, I::SendProvisional, Completed, None, End::Keep),
            (Completed, I::SendFinal, Completed, None, End::Keep),
            (Completed, I::End, Terminated, None, End::Keep),
        ];
        for &(state, input, next, send, end) in rows {
            let step = step(state, input);
            assert_eq!(
                (step.next, step.send, step.end),
                (next, send, end),
                "{state:?} on {input:?}"
            );
        }
        assert_eq!(step(Trying, I::SendFinal).retransmit, Retransmit::Stop);
    }

    #[test]
    fn only_what_has_no_answer_is_late() {
        for (state, notice) in [
            (Trying, Some(Notice::Unanswered)),
            (Proceeding, None),
            (Completed, None),
        ] {
            let step = step(state, I::Late);
            let done = (step.next, step.send, step.notice, step.retransmit);
            assert_eq!(done, (state, None, notice, Retransmit::Stop));
        }
    }
}
