//! The INVITE server transaction: RFC 3261 §17.2.1 with RFC 6026 §7.1.
//!
//! One duty of the transaction user is kept here, because the buffer and the timer are: a 2xx is sent again from T1 up to
//! every T2 until its ACK has come, over any transport (RFC 3261 §13.3.1.4). [`State::Accepted`] waits for that ACK;
//! [`State::Acknowledged`] only absorbs retransmitted INVITEs until Timer L.

use super::{End, Notice, Output, Retransmit, Step};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Proceeding,
    /// A final response of 300 to 699 was sent; its ACK is awaited.
    Completed,
    /// The ACK of a 300 to 699 came.
    Confirmed,
    /// A 2xx was sent; its ACK is awaited.
    Accepted,
    /// The ACK of the 2xx came, or is not for this element to await: a proxy passed the 2xx on.
    Acknowledged,
    Terminated,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The INVITE came again.
    Request,
    /// An ACK within the transaction (that of a 300 to 699), or one that the user matched to our 2xx.
    Ack,
    SendProvisional,
    SendSuccess,
    /// A 2xx that a proxy passes on: whoever sent it repeats it until its ACK has come.
    ForwardSuccess,
    SendFailure,
    /// Timer G, or the interval of the 2xx.
    Retransmit,
    /// Timer H in Completed, I in Confirmed, L in Accepted and Acknowledged.
    End,
    TransportError,
}

pub fn step(state: State, input: Input) -> Step<State> {
    use State::*;
    let stay = Step::stay(state);
    match (state, input) {
        // §17.2.1: a retransmitted INVITE is answered with the last response.
        (Proceeding | Completed, Input::Request) => stay.send(Output::Kept),
        (Proceeding, Input::SendProvisional) => stay.send(Output::New),
        (Proceeding, Input::SendSuccess) => stay
            .to(Accepted)
            .send(Output::New)
            .retransmit(Retransmit::StartAlways)
            .end(End::Timeout),
        // RFC 6026 §7.1: a proxy's 2xx, and each further one, goes to the transport and is not repeated here.
        (Proceeding, Input::ForwardSuccess) => stay
            .to(Acknowledged)
            .send(Output::New)
            .retransmit(Retransmit::Stop)
            .end(End::Timeout)
            .drop_kept(),
        (Acknowledged, Input::ForwardSuccess) => stay.send(Output::New).drop_kept(),
        (Completed | Confirmed | Accepted, Input::ForwardSuccess) => stay,
        (Proceeding, Input::SendFailure) => stay
            .to(Completed)
            .send(Output::New)
            .retransmit(Retransmit::Start)
            .end(End::Timeout),
        (Completed | Accepted, Input::Retransmit) => {
            stay.send(Output::Kept).retransmit(Retransmit::DoubleToT2)
        }
        (Completed, Input::Ack) => stay
            .to(Confirmed)
            .retransmit(Retransmit::Stop)
            .end(End::TimerI)
            .drop_kept(),
        // §17.2.1: no ACK for 64*T1: the transaction is over, and the user need not know: no dialog stands.
        (Completed, Input::End) => stay.to(Terminated),
        (Confirmed, Input::End) => stay.to(Terminated),
        (Accepted, Input::Ack) => stay.to(Acknowledged).retransmit(Retransmit::Stop).drop_kept(),
        // §13.3.1.4: no ACK for the 2xx within 64*T1: the user ends the dialog.
        (Accepted, Input::End) => stay.to(Terminated).notify(Notice::Timeout),
        (Acknowledged, Input::End) => stay.to(Terminated),
        (Proceeding | Completed | Accepted, Input::TransportError) => stay,
        // RFC 6026 §7.1: retransmitted INVITEs are absorbed once a 2xx was sent.
        (Accepted | Acknowledged | Confirmed, Input::Request) => stay,
        (Proceeding | Confirmed | Acknowledged, Input::Ack) => stay,
        (Proceeding | Confirmed | Acknowledged, Input::Retransmit) => stay.retransmit(Retransmit::Stop),
        (Proceeding, Input::End) => stay,
        (
            Completed | Confirmed | Accepted | Acknowledged,
            Input::SendProvisional | Input::SendSuccess | Input::SendFailure,
        ) => stay,
        (Confirmed | Acknowledged, Input::TransportError) => stay,
        (
            Terminated,
            Input::Request
            | Input::Ack
            | Input::SendProvisional
            | Input::SendSuccess
            | Input::ForwardSuccess
            | Input::SendFailure
            | Input::Retransmit
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

    /// State and input; next state, what is sent, what is told.
    type Row = (State, I, State, Option<Output>, Option<Notice>);

    /// Every row of figure 7 of RFC 3261 as RFC 6026 §8.5 changes it.
    #[test]
    fn every_row_of_the_table_holds() {
        let rows: &[Row] = &[
            (Proceeding, I::Request, Proceeding, Some(Output::Kept), None),
            (Proceeding, I::Ack, Proceeding, None, None),
            (
                Proceeding,
                I::SendProvisional,
                Proceeding,
                Some(Output::New),
                None,
            ),
            (Proceeding, I::SendSuccess, Accepted, Some(Output::New), None),
            (Proceeding, I::SendFailure, Completed, Some(Output::New), None),
            (Completed, I::Request, Completed, Some(Output::Kept), None),
            (Completed, I::Retransmit, Completed, Some(Output::Kept), None),
            (Completed, I::Ack, Confirmed, None, None),
            (Completed, I::End, Terminated, None, None),
            (Completed, I::SendSuccess, Completed, None, None),
            (Confirmed, I::Request, Confirmed, None, None),
            (Confirmed, I::Ack, Confirmed, None, None),
            (Confirmed, I::End, Terminated, None, None),
            (Accepted, I::Request, Accepted, None, None),
            (Accepted, I::Retransmit, Accepted, Some(Output::Kept), None),
            (Accepted, I::Ack, Acknowledged, None, None),
            (Accepted, I::End, Terminated, None, Some(Notice::Timeout)),
            (Accepted, I::SendFailure, Accepted, None, None),
            (Acknowledged, I::Request, Acknowledged, None, None),
            (Acknowledged, I::Ack, Acknowledged, None, None),
            (
                Proceeding,
                I::ForwardSuccess,
                Acknowledged,
                Some(Output::New),
                None,
            ),
            (
                Acknowledged,
                I::ForwardSuccess,
                Acknowledged,
                Some(Output::New),
                None,
            ),
            (Completed, I::ForwardSuccess, Completed, None, None),
            (Acknowledged, I::End, Terminated, None, None),
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
    fn a_2xx_is_repeated_over_any_transport_and_a_failure_over_udp_only() {
        assert_eq!(
            step(Proceeding, I::SendSuccess).retransmit,
            Retransmit::StartAlways
        );
        assert_eq!(step(Proceeding, I::SendFailure).retransmit, Retransmit::Start);
        assert_eq!(step(Completed, I::Ack).end, End::TimerI);
        assert_eq!(step(Accepted, I::Ack).end, End::Keep, "Timer L goes on");
    }
}
