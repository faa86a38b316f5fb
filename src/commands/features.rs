//! What a target can do, as far as the form of commands and values depends on it.
//!
//! Facts: RDB versions and types by release, `RESTORE` acceptance and commands by release, as the
//! reference's decision tables list them.

/// Who made the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Redis, or something that claims to be.
    Redis,
    /// Valkey.
    Valkey,
}

/// A target's flavour, release and modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Who made it.
    pub flavour: Flavour,
    /// Release: major, minor, patch.
    pub version: (u16, u16, u16),
    /// `JSON.SET` exists.
    pub json: bool,
    /// `BF.ADD`, `CMS.INCRBY`, `TOPK.ADD` and `CF.ADD` exist.
    pub bloom: bool,
}

/// How a serialised value reaches a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `RESTORE` with the bytes as they came.
    Restore,
    /// `RESTORE` of a stream without the fields that came with Redis 7.2 (type 19).
    RestoreStream19,
    /// `RESTORE` of a stream without the fields that came with Redis 7.0 (type 15).
    RestoreStream15,
    /// `RESTORE` of a hash of which fields expire as Redis 7.4 holds it (type 24).
    RestoreHash24,
    /// `RESTORE` of a hash of which fields expire as Valkey 9 holds it (type 22).
    RestoreHash22,
    /// Commands that build the same value.
    Native,
    /// `JSON.SET`.
    Json,
    /// No form yields the same value.
    None,
}

impl std::fmt::Display for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.flavour {
            Flavour::Redis => "Redis",
            Flavour::Valkey => "Valkey",
        };
        let (major, minor, patch) = self.version;
        write!(f, "{name} {major}.{minor}.{patch}")
    }
}

impl Features {
    /// Whether single fields of a hash can expire: Redis 7.4, Valkey 9.
    pub fn hash_field_expiry(&self) -> bool {
        match self.flavour {
            Flavour::Redis => self.version >= (7, 4, 0),
            Flavour::Valkey => self.version >= (9, 0, 0),
        }
    }

    /// Whether the release is this one (major, minor) or a later one. Valkey began at 7.2, so the
    /// numbers of Redis hold for it up to there.
    pub fn at_least(&self, major: u16, minor: u16) -> bool {
        self.version >= (major, minor, 0)
    }

    /// Whether `HSETEX` sets fields and their expiry at once: Redis 8.0, Valkey 9.
    pub fn hash_set_with_expiry(&self) -> bool {
        match self.flavour {
            Flavour::Redis => self.at_least(8, 0),
            Flavour::Valkey => self.at_least(9, 0),
        }
    }

    /// Whether it takes listpacks only as [`narrowed`](crate::rdb::narrowed) makes them: Valkey 9.1.
    pub fn narrow_listpacks(&self) -> bool {
        self.flavour == Flavour::Valkey && self.at_least(9, 1)
    }

    /// The cheapest form in which a value of RDB type `kind` arrives unchanged.
    ///
    /// Type 14 is [`Form::Restore`]; whoever finds a plain node in it uses [`Form::Native`], and so does
    /// whoever finds a listpack in types 16 to 18 that the target does not take. Streams are rewritten.
    pub fn form(&self, kind: u8) -> Form {
        let seven = self.version >= (7, 0, 0);
        match kind {
            0 | 2 | 4 | 5 | 11 | 12 | 13 | 14 | 15 => Form::Restore,
            16..=18 if seven => Form::Restore,
            16..=18 => Form::Native,
            19 if seven => Form::Restore,
            19 => Form::RestoreStream15,
            21 if self.version >= (7, 2, 0) => Form::Restore,
            21 if seven => Form::RestoreStream19,
            21 => Form::RestoreStream15,
            20 | 30 if self.json => Form::Json,
            31 if self.hash_field_expiry() => match self.flavour {
                Flavour::Redis => Form::RestoreHash24,
                Flavour::Valkey => Form::RestoreHash22,
            },
            31 | 32 => Form::Native,
            _ => Form::None,
        }
    }
}
