//! Readers whose peer has stopped reading, and how far each has got: for whoever
//! looks on. They follow no channel, so nothing else here knows of them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Hub;
use crate::log::{Position, StreamId};

/// Where a reader stands.
#[derive(Clone)]
pub struct Place {
    /// Each stream it watches, with its last record that it has had.
    pub watched: Vec<(StreamId, u64)>,
    pub position: Position,
}

#[derive(Default)]
pub(super) struct Stalled {
    places: Mutex<(u64, HashMap<u64, Place>)>,
}

/// One of those that rest, while it is held.
pub struct Rest {
    hub: Arc<Hub>,
    id: u64,
}

impl Hub {
    pub fn rest(self: &Arc<Self>, place: Place) -> Rest {
        let mut places = self.stalled.places.lock();
        let id = places.0;
        places.0 += 1;
        places.1.insert(id, place);
        Rest {
            hub: self.clone(),
            id,
        }
    }

    /// How many rest, and where some of them stand.
    pub fn stalled(&self, places_max: usize) -> (usize, Vec<Place>) {
        let places = self.stalled.places.lock();
        let some = places.1.values().take(places_max).cloned();
        (places.1.len(), some.collect())
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.hub.stalled.places.lock().1.remove(&self.id);
    }
}
