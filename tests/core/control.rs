//! What the control thread asks of a shard and is told by it, without either thread.

use ringway::metrics::{Histograms, MessageKind, Timed};
use ringway::port::{Ask, RequestId, Tell};

use crate::messages::*;
use crate::world::World;

/// What the shard recorded since it was last asked.
fn recorded(world: &mut World, shard: usize, request: u32) -> Box<Histograms> {
    let request = RequestId(request);
    let empty = Box::default();
    world.ask(shard, Ask::Histograms { request, empty }, b"");
    match world.told(shard) {
        Some((
            Tell::Histograms {
                request: of,
                recorded,
            },
            _,
        )) if of == request => recorded,
        other => panic!("{other:?}"),
    }
}

#[test]
fn histograms_are_swapped_for_empty_ones_and_every_message_is_in_one_of_them() {
    let mut world = with_bob(2);
    let mut counts = [0; 2];
    for round in 0..2 {
        let _standing = call(&mut world, &format!("c{round}"));
        for shard in 0..2 {
            let recorded = recorded(&mut world, shard, round * 2 + shard as u32);
            counts[round as usize] += recorded.get(Timed::InServer(MessageKind::Invite)).len();
        }
    }
    assert_eq!(counts, [1, 1], "one INVITE a round, on whichever shard owns it");
    assert!(world.told(0).is_none(), "nothing was told that was not asked");
    world.hang_up_all();
    world.end();
}
