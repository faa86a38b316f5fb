//! In which form values of each type would go to the target.

use crate::commands::{Features, Form, Kind};
use crate::config::{MemberExpiry, Reaction, Task};
use crate::rdb::kind;

use super::super::context::reaction;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeForm {
    /// The type, in the plural.
    pub values: &'static str,
    /// How they go to the target.
    pub form: String,
}

/// The types, with the numbers they can have in a snapshot, and whose policy it is if there is no form.
const TYPES: [(&str, &[u8], Kind); 12] = [
    ("lists", &[kind::LIST, kind::LIST_ZIPLISTS], Kind::Value),
    ("sets", &[kind::SET, kind::SET_INTSET], Kind::Value),
    (
        "hashes",
        &[kind::HASH, kind::HASH_LISTPACK, kind::HASH_ZIPLIST],
        Kind::Value,
    ),
    (
        "sorted sets",
        &[kind::SORTED, kind::SORTED_LISTPACK, kind::SORTED_ZIPLIST],
        Kind::Value,
    ),
    (
        "streams",
        &[kind::STREAM, kind::STREAM_19, kind::STREAM_15],
        Kind::Value,
    ),
    (
        "hashes with fields that expire",
        &[kind::HASH_EXPIRING],
        Kind::MemberExpiry,
    ),
    (
        "sets with members that expire",
        &[kind::SET_EXPIRING],
        Kind::MemberExpiry,
    ),
    ("JSON documents", &[kind::JSON], Kind::Json),
    ("Bloom filters", &[33, 34], Kind::Bloom),
    ("count-min sketches", &[35], Kind::Cms),
    ("Top-k lists", &[36], Kind::Topk),
    ("cuckoo filters", &[37], Kind::Cuckoo),
];

/// The form of each type for such a target.
pub(super) fn table(features: &Features, task: &Task) -> Vec<TypeForm> {
    let strings = TypeForm {
        values: "strings",
        form: "SET".to_owned(),
    };
    let others = TYPES.into_iter().map(|(values, kinds, policy)| {
        let mut forms: Vec<String> = Vec::new();
        for kind in kinds {
            let form = words(features, *kind, policy, task);
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        TypeForm {
            values,
            form: forms.join(", or "),
        }
    });
    std::iter::once(strings).chain(others).collect()
}

fn words(features: &Features, kind: u8, policy: Kind, task: &Task) -> String {
    let text = match features.form(kind) {
        Form::Restore => "RESTORE as it comes",
        Form::RestoreStream19 => "RESTORE without what came with Redis 7.2",
        Form::RestoreStream15 => "RESTORE without what came with Redis 7.0",
        Form::RestoreHash24 | Form::RestoreHash22 => "RESTORE as the type that this release has",
        Form::Json => "JSON.SET",
        Form::Native if policy == Kind::MemberExpiry => return expiring(task),
        Form::Native => "commands that build the same value",
        Form::None => {
            let name = policy.as_str();
            return match reaction(&task.policy, policy) {
                Reaction::Stop => format!("none: stops the task (policy.on_unsupported.{name})"),
                Reaction::Skip => format!("none: left out (policy.on_unsupported.{name})"),
            };
        }
    };
    text.to_owned()
}

/// The target has no expiry for single members.
fn expiring(task: &Task) -> String {
    match task.policy.on_member_expiry {
        MemberExpiry::Emulate => {
            "commands that build the same value; the key is read again when members expire"
                .to_owned()
        }
        MemberExpiry::Drop => {
            "commands that build the same value, without expiry (policy.on_member_expiry)"
                .to_owned()
        }
        MemberExpiry::Stop => "none: stops the task (policy.on_member_expiry)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::task_with;
    use super::*;
    use crate::commands::Flavour;

    fn form_of(features: &Features, policy: &str, values: &str) -> String {
        let table = table(features, &task_with(policy));
        let line = table.into_iter().find(|line| line.values == values);
        line.unwrap().form
    }

    #[test]
    fn the_table_follows_release_modules_and_policy() {
        let features = |flavour, version, json| Features {
            flavour,
            version,
            json,
            bloom: false,
        };
        let old = features(Flavour::Redis, (6, 2, 14), false);
        let new = features(Flavour::Valkey, (9, 0, 0), true);
        let stop = "[policy]\non_member_expiry = \"stop\"\non_unsupported = { bloom = \"skip\" }\n";
        let (hashes, sets) = (
            "hashes with fields that expire",
            "sets with members that expire",
        );
        let drop = "[policy]\non_member_expiry = \"drop\"\n";
        let dropped =
            "commands that build the same value, without expiry (policy.on_member_expiry)";
        let emulated =
            "commands that build the same value; the key is read again when members expire";
        let restored = "RESTORE as the type that this release has";
        let stops = "none: stops the task (policy.on_member_expiry)";
        for (features, policy, values, form) in [
            (&old, "", "strings", "SET"),
            (&old, "", "sets", "RESTORE as it comes"),
            (
                &old,
                "",
                "lists",
                "commands that build the same value, or RESTORE as it comes",
            ),
            (
                &old,
                "",
                "streams",
                "RESTORE without what came with Redis 7.0, or RESTORE as it comes",
            ),
            (&new, "", "streams", "RESTORE as it comes"),
            (&old, "", hashes, emulated),
            (&old, drop, hashes, dropped),
            (&old, stop, hashes, stops),
            (&new, stop, hashes, restored),
            (&new, "", sets, emulated),
            (&new, drop, sets, dropped),
            (&new, stop, sets, stops),
            (
                &old,
                "",
                "JSON documents",
                "none: stops the task (policy.on_unsupported.json)",
            ),
            (&new, "", "JSON documents", "JSON.SET"),
            (
                &new,
                stop,
                "Bloom filters",
                "none: left out (policy.on_unsupported.bloom)",
            ),
            (
                &new,
                stop,
                "Top-k lists",
                "none: stops the task (policy.on_unsupported.topk)",
            ),
        ] {
            assert_eq!(
                form_of(features, policy, values),
                form,
                "{features} {values}"
            );
        }
    }
}
