//! What a journalled command means: its keys, its effect, its form for a given target.
//!
//! Pure functions over the words of one command; nothing here reads or writes.
//!
//! [`lookup`] knows each command, [`keys()`] and [`filtered`] its keys, and [`plan()`] says what to
//! send in its place. [`Features`] says what the target can do, [`Known`] which commands it has.

mod end;
mod features;
mod float;
mod grace;
mod hash;
mod keys;
mod known;
mod plan;
#[cfg(test)]
mod recorded;
mod slots;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod translate;

pub use end::end_of;
pub use features::{Features, Flavour, Form};
pub use grace::with_grace;
pub use hash::depends_on_field;
pub use keys::{Filtered, KeyIter, KeyUse, filtered, keys};
pub use known::Known;
pub use plan::{
    Circumstances, Commands, Context, Defect, Global, Kind, MemberExpiry, Note, Nothing, Plan,
    Reason, Restore, Unsupported, Word, plan,
};
pub use slots::{Slots, by_slot};
pub use table::{Keys, Needs, Roles, Spec, Tolerates, lookup, names};
