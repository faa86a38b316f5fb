//! Which commands a value takes: the table of [`Features::form`](crate::commands::Features::form), and what only a look at the value tells.

use super::{Bytes, FormError, Job};
use crate::commands::{Form, Kind, Reason};
use crate::rdb::{Cursor, Ziplist, kind, narrowed, string};

/// Which commands a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `SET`.
    Set,
    /// `RESTORE` with the bytes as they came.
    Restore,
    /// `RESTORE` as a stream of this older type.
    Stream(u8),
    /// `RESTORE` as a hash of this type, of which fields expire.
    Hash(u8),
    /// `JSON.SET`.
    Json,
    /// Commands that build the same value.
    Native,
}

impl Job<'_> {
    /// How the value goes to the target.
    pub(super) fn way(&self) -> Result<Way, FormError> {
        let kind = self.value.kind;
        if kind == kind::STRING {
            return Ok(Way::Set);
        }
        Ok(match self.settings.features.form(kind) {
            Form::Restore if kind == kind::LIST_ZIPLISTS && !self.only_ziplists() => Way::Native,
            // A stream has no native form that keeps all of it.
            Form::Restore if matches!(kind, kind::STREAM_15 | kind::STREAM_19 | kind::STREAM) => {
                match self.settings.features.narrow_listpacks() {
                    true => Way::Stream(kind),
                    false => Way::Restore,
                }
            }
            Form::Restore if !self.takes_listpacks()? => Way::Native,
            Form::Restore if self.value.bytes.len() <= self.settings.limits.restore => Way::Restore,
            Form::RestoreStream19 => Way::Stream(kind::STREAM_19),
            Form::RestoreStream15 => Way::Stream(kind::STREAM_15),
            Form::RestoreHash24 if self.is_restored() => Way::Hash(kind::HASH_EXPIRING_REDIS),
            Form::RestoreHash22 if self.is_restored() => Way::Hash(kind::HASH_EXPIRING_VALKEY),
            Form::Json => Way::Json,
            Form::Restore | Form::RestoreHash24 | Form::RestoreHash22 | Form::Native => Way::Native,
            Form::None => return Err(no_form(kind)),
        })
    }

    /// Whether a value that has to be rewritten is in memory, and small enough for one payload.
    fn is_restored(&self) -> bool {
        matches!(self.value.bytes, Bytes::Inline(bytes) if bytes.len() as u64 <= self.settings.limits.restore)
    }

    /// Whether the target takes the listpacks of a value as they are. Those in a file are not looked at.
    fn takes_listpacks(&self) -> Result<bool, FormError> {
        let kind = self.value.kind;
        let packed = matches!(
            kind,
            kind::HASH_LISTPACK | kind::SORTED_LISTPACK | kind::LIST
        );
        if !packed || !self.settings.features.narrow_listpacks() {
            return Ok(true);
        }
        let Bytes::Inline(bytes) = self.value.bytes else {
            return Ok(false);
        };
        let halted = |halt| FormError::halted(kind, 0, bytes.len() as u64, halt);
        let mut cursor = Cursor::new(bytes);
        let lists = kind == kind::LIST;
        let nodes = if lists {
            cursor.packed().map_err(halted)?
        } else {
            1
        };
        for _ in 0..nodes {
            let packed = !lists || cursor.packed().map_err(halted)? == 2;
            let node = string::read(&mut cursor).map_err(halted)?;
            if packed && narrowed(&node).map_err(halted)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a list of type 14 has no bare elements, which `RESTORE` would refuse. A list in a
    /// file is not looked through.
    fn only_ziplists(&self) -> bool {
        let Bytes::Inline(bytes) = self.value.bytes else {
            return false;
        };
        let mut cursor = Cursor::new(bytes);
        let Ok(nodes) = cursor.packed() else {
            return false;
        };
        (0..nodes).all(|_| string::read(&mut cursor).is_ok_and(|node| Ziplist::is_valid(&node)))
    }
}

/// Why no target gets a value of this type.
pub(super) fn no_form(kind: u8) -> FormError {
    let type_of = |name| FormError::unsupported(name, Reason::Type(kind));
    match kind {
        kind::JSON | kind::JSON_OLD => FormError::unsupported(Kind::Json, Reason::Module("JSON")),
        33 | 34 => type_of(Kind::Bloom),
        35 => type_of(Kind::Cms),
        36 => type_of(Kind::Topk),
        37 => type_of(Kind::Cuckoo),
        _ => type_of(Kind::Value),
    }
}
