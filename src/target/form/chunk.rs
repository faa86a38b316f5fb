//! Elements collected until there are enough of them for a command.

use crate::commands::{Kind, MemberExpiry, Reason};
use crate::rdb::Element;
use crate::target::Outgoing;

use super::{FormError, LATER_MS, Notes, Settings};

/// The words of one command to come.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The command's name; set by the first element.
    name: &'static [u8],
    /// The words, one behind the other.
    bytes: Vec<u8>,
    /// Where each word ends.
    ends: Vec<usize>,
    elements: usize,
    /// Expiry and number of the word that expires, a hash field.
    expiring: Vec<(u64, usize)>,
}

impl Chunk {
    /// Takes an element in, unless it has expired.
    pub(super) fn push(
        &mut self,
        element: &Element<'_>,
        settings: &Settings<'_>,
        notes: &mut Notes,
    ) -> Result<(), FormError> {
        match element {
            Element::Item(item) => self.add(b"RPUSH", &[item]),
            Element::Member { member, expires } => {
                if keep(*expires, false, settings, notes)? {
                    self.add(b"SADD", &[member]);
                }
            }
            Element::Field {
                field,
                value,
                expires,
            } => {
                let can_expire = settings.features.hash_field_expiry();
                if keep(*expires, can_expire, settings, notes)? {
                    if let Some(at) = expires.filter(|_| can_expire) {
                        self.expiring.push((at, self.ends.len()));
                    }
                    self.add(b"HSET", &[field, value]);
                }
            }
            Element::Scored { member, score } => {
                self.add(b"ZADD", &[spell(*score).as_bytes(), member]);
            }
            // Strings, JSON and streams never come here: they have forms of their own.
            _ => return Err(FormError::unsupported(Kind::Value, Reason::NoCounterpart)),
        }
        Ok(())
    }

    fn add(&mut self, name: &'static [u8], words: &[&[u8]]) {
        self.name = name;
        self.elements += 1;
        for word in words {
            self.bytes.extend_from_slice(word);
            self.ends.push(self.bytes.len());
        }
    }

    /// Whether it holds enough for a command.
    pub(super) fn is_full(&self, settings: &Settings<'_>) -> bool {
        self.elements >= settings.limits.elements || self.bytes.len() >= settings.limits.command
    }

    /// Appends the command for `key`, and those for the fields that expire. Then it is empty.
    /// Whether there was anything.
    pub(super) fn flush(&mut self, key: &[u8], lsn: Option<u64>, out: &mut Outgoing) -> bool {
        if self.elements == 0 {
            return false;
        }
        out.command(2 + self.ends.len(), lsn);
        out.word(self.name);
        out.word(key);
        for number in 0..self.ends.len() {
            out.word(self.word(number));
        }
        self.expiring.sort_unstable();
        for same in self.expiring.chunk_by(|one, other| one.0 == other.0) {
            let Some((at, _)) = same.first() else {
                continue;
            };
            out.command(5 + same.len(), lsn);
            out.word(b"HPEXPIREAT");
            out.word(key);
            out.int(i64::try_from(*at).unwrap_or(i64::MAX));
            out.word(b"FIELDS");
            out.int(same.len() as i64);
            for (_, number) in same {
                out.word(self.word(*number));
            }
        }
        self.bytes.clear();
        self.ends.clear();
        self.expiring.clear();
        self.elements = 0;
        true
    }

    fn word(&self, number: usize) -> &[u8] {
        let start = match number.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or_default(),
            None => 0,
        };
        let end = self.ends.get(number).copied().unwrap_or(start);
        self.bytes.get(start..end).unwrap_or_default()
    }
}

/// Whether a member is to be sent, given its expiry and whether the target can keep that.
fn keep(
    expires: Option<u64>,
    can_expire: bool,
    settings: &Settings<'_>,
    notes: &mut Notes,
) -> Result<bool, FormError> {
    let Some(at) = expires else {
        return Ok(true);
    };
    let at_ms = i64::try_from(at).unwrap_or(i64::MAX);
    if at_ms <= settings.now_ms {
        notes.members_expired += 1;
        let emulated = !can_expire && settings.on_member_expiry == MemberExpiry::Emulate;
        let later = at_ms.saturating_add(LATER_MS);
        if emulated && later > settings.now_ms {
            notes.due(later);
        }
        return Ok(false);
    }
    if !can_expire {
        match settings.on_member_expiry {
            MemberExpiry::Stop => {
                return Err(FormError::unsupported(
                    Kind::MemberExpiry,
                    Reason::MemberExpiry,
                ));
            }
            MemberExpiry::Drop => notes.expiry_dropped += 1,
            MemberExpiry::Emulate => notes.due(at_ms),
        }
    }
    Ok(true)
}

/// The shortest text that Redis reads as exactly this score.
fn spell(score: f64) -> String {
    let plain = score == 0.0 || (1e-5..1e17).contains(&score.abs());
    if plain || score.is_infinite() {
        format!("{score}")
    } else {
        format!("{score:e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scores_are_spelt_as_redis_reads_them() {
        for (score, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (1e300, "1e300"),
            (5e-324, "5e-324"),
            (0.1 + 0.2, "0.30000000000000004"),
            (9007199254740993.0, "9007199254740992"),
        ] {
            assert_eq!(spell(score), text);
        }
    }

    proptest! {
        #[test]
        fn a_spelt_score_has_the_same_bits_and_is_short(score in any::<f64>()) {
            prop_assume!(!score.is_nan());
            let text = spell(score);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), score.to_bits());
            prop_assert!(text.len() <= 25);
        }
    }
}
