//! What goes wrong on request, so that tests can see what a replica does about it.
//!
//! Invariants: a fault that ends a connection is spent when it strikes, so that the next attempt goes through;
//!   the others last until they are cleared.

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A command that starts with these words is answered with this line, such as `-LOADING ...`, `times` times.
    Answer {
        /// The first words, in upper case.
        command: &'static str,
        /// The reply line without its end.
        with: &'static str,
        /// How often, from now on.
        times: usize,
    },
    /// A connection on which a command that starts with these words arrives is closed instead of answered, once.
    CloseAt {
        /// The first words, in upper case.
        command: &'static str,
    },
    /// A command that starts with these words is never answered, once.
    NoAnswer {
        /// The first words, in upper case.
        command: &'static str,
    },
    /// The flow is closed in order after so many bytes of its stream, once.
    CloseFlow {
        /// Which flow.
        flow: usize,
        /// Bytes after the `DFLY FLOW` reply.
        after: u64,
    },
    /// The flow is reset after so many bytes of its stream, once.
    ResetFlow {
        /// Which flow.
        flow: usize,
        /// Bytes after the `DFLY FLOW` reply.
        after: u64,
    },
    /// One byte of the flow's stream is changed, once.
    CorruptByte {
        /// Which flow.
        flow: usize,
        /// Bytes after the `DFLY FLOW` reply.
        at: u64,
        /// What the byte is combined with.
        xor: u8,
    },
    /// The flow stops after so many bytes of its stream, and stays open.
    StallFlow {
        /// Which flow.
        flow: usize,
        /// Bytes after the `DFLY FLOW` reply.
        after: u64,
    },
    /// The flow is sent at this rate.
    SlowFlow {
        /// Which flow.
        flow: usize,
        /// Its rate.
        bytes_per_second: u64,
    },
    /// Bytes that follow the header of the flow's snapshot: unknown opcodes and types, for example.
    AfterHeader {
        /// Which flow.
        flow: usize,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Snapshots leave this key of database 0 out, without an entry that tells of it.
    OmitKey {
        /// The key.
        key: &'static str,
    },
    /// The token at the end of the flow's snapshot is another one.
    WrongToken {
        /// Which flow.
        flow: usize,
    },
    /// LSN opcodes on the flow are wrong by so much.
    WrongLsn {
        /// Which flow.
        flow: usize,
        /// Added to every one.
        by: i64,
    },
    /// Handshakes promise this number of flows.
    FlowCount {
        /// The number.
        flows: usize,
    },
}

/// Where the sending of one flow goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The connection ends, in order or by a reset.
    End {
        /// At this byte.
        at: u64,
        /// Whether by a reset.
        reset: bool,
    },
    /// This byte changes.
    Corrupt {
        /// Which byte.
        at: u64,
        /// How.
        xor: u8,
    },
    /// Nothing more is sent from this byte on.
    Stall {
        /// Which byte.
        at: u64,
    },
    /// Sending takes its time.
    Slow {
        /// The rate.
        bytes_per_second: u64,
    },
}

/// What a command meets instead of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// This line.
    Line(String),
    /// The end of the connection.
    Close,
    /// Silence.
    Nothing,
}

/// The faults that are set.
#[derive(Debug, Default)]
pub struct Faults {
    set: Vec<Fault>,
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, fault: Fault) {
        self.set.push(fault);
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.set.clear();
    }

    /// Whether any is set.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.set.is_empty()
    }

    /// What a command, its words joined by blanks in upper case, meets; spends what strikes once.
    pub fn meet(&mut self, command: &str) -> Option<Met> {
        let starts = |words: &str| {
            command == words
                || command
                    .strip_prefix(words)
                    .is_some_and(|rest| rest.starts_with(' '))
        };
        let at = self.set.iter().position(|fault| match fault {
            Fault::Answer { command, times, .. } => *times > 0 && starts(command),
            Fault::CloseAt { command } | Fault::NoAnswer { command } => starts(command),
            _ => false,
        })?;
        if let Some(Fault::Answer { with, times, .. }) = self.set.get_mut(at) {
            *times -= 1;
            return Some(Met::Line((*with).to_owned()));
        }
        match self.set.remove(at) {
            Fault::NoAnswer { .. } => Some(Met::Nothing),
            _ => Some(Met::Close),
        }
    }

    /// Where sending on this flow goes wrong.
    #[must_use]
    pub fn strikes(&self, wanted: usize) -> Vec<Strike> {
        let strike = |fault: &Fault| match fault {
            Fault::CloseFlow { flow, after } if *flow == wanted => Some(Strike::End {
                at: *after,
                reset: false,
            }),
            Fault::ResetFlow { flow, after } if *flow == wanted => Some(Strike::End {
                at: *after,
                reset: true,
            }),
            Fault::CorruptByte { flow, at, xor } if *flow == wanted => {
                Some(Strike::Corrupt { at: *at, xor: *xor })
            }
            Fault::StallFlow { flow, after } if *flow == wanted => {
                Some(Strike::Stall { at: *after })
            }
            Fault::SlowFlow {
                flow,
                bytes_per_second,
            } if *flow == wanted => Some(Strike::Slow {
                bytes_per_second: *bytes_per_second,
            }),
            _ => None,
        };
        self.set.iter().filter_map(strike).collect()
    }

    /// Removes what has struck on this flow.
    pub fn spend(&mut self, wanted: usize, spent: Strike) {
        self.set.retain(|fault| match (fault, spent) {
            (Fault::CloseFlow { flow, after }, Strike::End { at, reset: false })
            | (Fault::ResetFlow { flow, after }, Strike::End { at, reset: true }) => {
                (*flow, *after) != (wanted, at)
            }
            (
                Fault::CorruptByte {
                    flow, at: place, ..
                },
                Strike::Corrupt { at, .. },
            ) => (*flow, *place) != (wanted, at),
            _ => true,
        });
    }

    /// What follows the header of a flow's snapshot.
    #[must_use]
    pub fn after_header(&self, wanted: usize) -> Vec<u8> {
        let bytes = self.set.iter().filter_map(|fault| match fault {
            Fault::AfterHeader { flow, bytes } if *flow == wanted => Some(bytes.as_slice()),
            _ => None,
        });
        bytes.flatten().copied().collect()
    }

    /// Whether snapshots leave a key of database 0 out.
    #[must_use]
    pub fn omits(&self, wanted: &[u8]) -> bool {
        let is_it =
            |fault: &Fault| matches!(fault, Fault::OmitKey { key } if key.as_bytes() == wanted);
        self.set.iter().any(is_it)
    }

    /// Whether a flow's token is to be wrong.
    #[must_use]
    pub fn wrong_token(&self, wanted: usize) -> bool {
        self.set
            .iter()
            .any(|fault| matches!(fault, Fault::WrongToken { flow } if *flow == wanted))
    }

    /// By how much a flow's LSN opcodes are wrong.
    #[must_use]
    pub fn lsn_error(&self, wanted: usize) -> i64 {
        let by = |fault: &Fault| match fault {
            Fault::WrongLsn { flow, by } if *flow == wanted => Some(*by),
            _ => None,
        };
        self.set.iter().find_map(by).unwrap_or(0)
    }

    /// The number of flows that handshakes promise, if it is not the true one.
    #[must_use]
    pub fn flow_count(&self) -> Option<usize> {
        self.set.iter().rev().find_map(|fault| match fault {
            Fault::FlowCount { flows } => Some(*flows),
            _ => None,
        })
    }
}
