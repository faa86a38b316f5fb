//! Every table and key a task file may hold, with its type and default.
//!
//! This is the only place where a default stands: the checks read it from here, and tests compare the
//! samples and the man page with it. A key is listed when it works, not before.

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// Its type in the words of df2redis.toml(5).
    pub kind: &'static str,
    /// Its default as it would be written in the file (strings without quotes); `None` if there is none.
    pub default: Option<&'static str>,
}

/// One table and its keys.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// As written between brackets.
    pub name: &'static str,
    /// Its keys, in the order of the documentation.
    pub keys: &'static [Key],
}

const fn key(name: &'static str, kind: &'static str, default: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        default,
    }
}

const TLS: &[Key] = &[
    key("ca", "path", None),
    key("cert", "path", None),
    key("key", "path", None),
    key("server_name", "string", None),
    key("insecure_skip_verify", "boolean", Some("false")),
];

/// All tables. `policy.on_unsupported` may also be one string that stands for all its keys.
pub const TABLES: &[Table] = &[
    Table {
        name: "task",
        keys: &[
            key("name", "string", None),
            key("state_dir", "path", None),
            key("shutdown_timeout", "duration", Some("30s")),
        ],
    },
    Table {
        name: "source",
        keys: &[
            key("type", "string", Some("dragonfly")),
            key("address", "address", None),
            key("username", "string", None),
            key("password", "string", None),
            key("password_file", "path", None),
            key("password_env", "string", None),
            key("connect_timeout", "duration", Some("5s")),
            key("announce_ip", "string", None),
            key("announce_port", "integer", None),
        ],
    },
    Table {
        name: "source.tls",
        keys: TLS,
    },
    Table {
        name: "target",
        keys: &[
            key("type", "string", Some("redis")),
            key("address", "address", None),
            key("addresses", "array of addresses", None),
            key("address_map", "table", None),
            key("username", "string", None),
            key("password", "string", None),
            key("password_file", "path", None),
            key("password_env", "string", None),
            key("connect_timeout", "duration", Some("5s")),
            key("db_map", "table", None),
            key("exclusive", "boolean", Some("false")),
            key("positions", "string", Some("transaction")),
            key("position_db", "integer", Some("0")),
        ],
    },
    Table {
        name: "target.tls",
        keys: TLS,
    },
    Table {
        name: "filter",
        keys: &[
            key("databases", "array of integers", None),
            key("include", "array of strings", Some("*")),
            key("exclude", "array of strings", None),
        ],
    },
    Table {
        name: "policy",
        keys: &[
            key("conflict", "string", Some("overwrite")),
            key("on_error", "string", Some("stop")),
            key("on_unsupported", "string or table", Some("stop")),
            key("on_member_expiry", "string", Some("emulate")),
            key("on_cross_slot", "string", Some("fetch")),
            key("resync", "string", Some("reconcile")),
            key("max_delete", "string", Some("20%")),
            key("expiry_grace", "duration", Some("0s")),
        ],
    },
    Table {
        name: "policy.on_unsupported",
        keys: &[
            key("json", "string", Some("stop")),
            key("bloom", "string", Some("stop")),
            key("cms", "string", Some("stop")),
            key("topk", "string", Some("stop")),
            key("cuckoo", "string", Some("stop")),
            key("search", "string", Some("stop")),
            key("command", "string", Some("stop")),
            key("value", "string", Some("stop")),
            key("lost", "string", Some("stop")),
        ],
    },
    Table {
        name: "limits",
        keys: &[key("memory", "size", Some("64MiB"))],
    },
    Table {
        name: "spool",
        keys: &[
            key("max_size", "size", Some("10GiB")),
            key("min_free", "size", Some("1GiB")),
            key("keep", "duration", Some("60s")),
            key("sync", "string", Some("interval")),
            key("on_full", "string", Some("disconnect")),
        ],
    },
    Table {
        name: "retry",
        keys: &[
            key("initial", "duration", Some("200ms")),
            key("max", "duration", Some("30s")),
            key("max_elapsed", "duration", None),
        ],
    },
    Table {
        name: "audit",
        keys: &[key("keys_per_second", "integer", Some("200"))],
    },
    Table {
        name: "log",
        keys: &[
            key("dir", "path", None),
            key("level", "string", Some("info")),
            key("format", "string", Some("text")),
            key("console", "string", Some("auto")),
            key("rotate_size", "size", None),
            key("rotate_keep", "integer", Some("5")),
            key("rotate_compress", "boolean", Some("false")),
        ],
    },
];

/// The table of that name.
pub(super) fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

/// The default of one key, `None` if there is none or no such key.
pub(super) fn default(table_name: &str, key_name: &str) -> Option<&'static str> {
    let key = table(table_name)?
        .keys
        .iter()
        .find(|key| key.name == key_name)?;
    key.default
}

/// The names of the tables directly inside `parent` (the empty name: of the file itself).
pub(super) fn children(parent: &str) -> impl Iterator<Item = &'static str> {
    TABLES.iter().filter_map(move |table| {
        let rest = match parent {
            "" => Some(table.name),
            _ => table.name.strip_prefix(parent)?.strip_prefix('.'),
        };
        rest.filter(|rest| !rest.contains('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_file_and_of_the_source_are_found() {
        let top: Vec<_> = children("").collect();
        assert_eq!(
            top,
            [
                "task", "source", "target", "filter", "policy", "limits", "spool", "retry",
                "audit", "log"
            ]
        );
        assert_eq!(children("source").collect::<Vec<_>>(), ["tls"]);
        assert_eq!(children("policy").collect::<Vec<_>>(), ["on_unsupported"]);
    }
}
