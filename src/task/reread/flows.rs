//! Who asks flows to read keys again: the flows of a session, from outside.

use tokio::sync::{mpsc, oneshot};

use super::Suspects;
use super::list::Place;

/// The flows of a session, as whoever does not trust keys sees them. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(in crate::task) struct Flows(Vec<mpsc::Sender<Suspects>>);

impl Flows {
    /// Another flow, the next by number: what it is to listen to.
    pub(in crate::task) fn add(&mut self) -> mpsc::Receiver<Suspects> {
        let (suspect, suspected) = mpsc::channel(1);
        self.0.push(suspect);
        suspected
    }

    /// Forgets all flows, which have ended.
    pub(in crate::task) fn clear(&mut self) {
        self.0.clear();
    }

    /// Has the flows read these keys again, each the one that owns it, and waits until they have written what they found.
    pub(in crate::task) async fn settle(&self, places: Vec<(u32, Place)>) {
        let mut by_flow: Vec<(Vec<Place>, u64)> = self.0.iter().map(|_| (Vec::new(), 0)).collect();
        for (flow, place) in places {
            if let Some((places, _)) = by_flow.get_mut(flow as usize) {
                places.push(place);
            }
        }
        self.have_settled(by_flow).await;
    }

    /// By flow, keys and a position to be reached. Waits for ever if one of the flows has ended: so does the session.
    pub(in crate::task) async fn have_settled(&self, by_flow: Vec<(Vec<Place>, u64)>) {
        let mut settled = Vec::new();
        for ((places, reach), suspects) in by_flow.into_iter().zip(&self.0) {
            if places.is_empty() && reach == 0 {
                continue;
            }
            let (done, when) = oneshot::channel();
            let told = Suspects {
                places,
                reach,
                done,
            };
            // A flow that has ended drops it, and then the question.
            drop(suspects.send(told).await);
            settled.push(when);
        }
        for when in settled {
            if when.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
