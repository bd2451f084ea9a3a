//! What the driver's calls changed, told at the moment when it changes: a late landing counts when it lands.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::Vpc;
use crate::state::State;
use crate::switches::Switches;
use crate::world::{World, all_of};

/// What one Assign or Unassign did to an ENI.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Its id.
    pub eni: String,
    /// Addresses that came, those of a prefix among them.
    pub on: BTreeSet<Ipv4Addr>,
    /// Addresses that went.
    pub off: BTreeSet<Ipv4Addr>,
    /// It landed after the caller had been told nothing.
    pub is_late: bool,
}

/// Is told of every effect while the VPC is locked: nothing else happens in it meanwhile.
pub(crate) struct Watcher(Arc<dyn Fn(&Effect) + Send + Sync>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

impl Vpc {
    /// Tells `look` of every effect of a call. It must not look at the VPC itself.
    pub fn watch(&self, look: impl Fn(&Effect) + Send + Sync + 'static) {
        self.lock().watcher = Some(Watcher(Arc::new(look)));
    }
}

/// Makes a change of the ENI and tells what it did, even if the call is refused in the end.
pub(crate) fn watched<T>(state: &mut State, eni: &str, change: impl FnOnce(&mut World, &Switches) -> T) -> T {
    let held = |world: &World| -> BTreeSet<Ipv4Addr> {
        let Some(eni) = world.enis.get(eni) else { return BTreeSet::new() };
        eni.secondaries.iter().copied().chain(eni.prefixes.iter().copied().flat_map(all_of)).collect()
    };
    let before = held(&state.world);
    let outcome = change(&mut state.world, &state.switches);
    if let Some(watcher) = &state.watcher {
        let after = held(&state.world);
        let (on, off): (BTreeSet<_>, BTreeSet<_>) = (&after - &before, &before - &after);
        if !on.is_empty() || !off.is_empty() {
            (watcher.0)(&Effect { eni: eni.to_owned(), on, off, is_late: state.is_landing_late });
        }
    }
    outcome
}
