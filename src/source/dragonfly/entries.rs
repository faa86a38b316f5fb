//! Journal entries, and whatever is too long for a window: bodies and blobs that arrive in pieces.

use crate::entry::{Body, Command, Item, SpillWriter, Text};
use crate::rdb::{Cursor, Halt};

use super::blob::Packed;
use super::fault::Fault;
use super::head::{read_text, span};
use super::journal::{EntryHead, entry_head, is_ping};
use super::layer::{BodyHead, BodyWalker, Layer, Open, OpenBlob, OpenBody};
use super::parser::{BLOB_LIMIT, Parser, WholeBlob};
use super::words::Words;

/// Most bytes of a journal blob that came as an LZF string. No master writes them so, but the form
/// allows it.
const DECODED_LIMIT: usize = 256 << 10;

const CUT_OFF: &str = "an entry is cut off at the end of its blob";

impl Parser {
    /// One journal entry, inside a journal blob or in the journal proper.
    pub(super) fn entry(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let (bytes, all) = layer.bounded();
        let (head, len) = match entry_head(bytes) {
            Err(Fault::Halt(Halt::Incomplete { .. })) if all => {
                return Err(Fault::invalid(CUT_OFF));
            }
            other => other?,
        };
        match head {
            EntryHead::Command { txid, words, total } => {
                return self.command(layer, len, txid, words, total);
            }
            EntryHead::Select(db) => self.journal_db = db,
            EntryHead::Lsn(lsn) => self.count.check(lsn)?,
            EntryHead::Nothing { acknowledge } => {
                let lsn = self.count.take()?;
                self.items.push(Item::Nothing { lsn, acknowledge });
            }
        }
        layer.consume(len);
        Ok(())
    }

    fn command(
        &mut self,
        layer: &mut Layer,
        head: usize,
        txid: u64,
        words: u32,
        total: u64,
    ) -> Result<(), Fault> {
        let (bytes, _) = layer.bounded();
        let mut walker = Words::new(u64::from(words), total);
        let args = bytes.get(head..).unwrap_or_default();
        let walked = walker.walk(args)?;
        if walked.done && walked.consumed <= self.settings.threshold() {
            let ping = is_ping(words, args.get(..walked.consumed).unwrap_or_default());
            let start = layer.at + head;
            let args = Body::Inline(span(start..start + walked.consumed));
            self.push_command(self.journal_db, txid, words, args, ping)?;
            layer.consume(head + walked.consumed);
            return Ok(());
        }
        let db = self.journal_db;
        let open = OpenBody {
            head: BodyHead::Command { db, txid, words },
            walker: BodyWalker::Words(Words::new(u64::from(words), total)),
            body: head,
            walked: head,
            file: None,
        };
        self.body(layer, Box::new(open))
    }

    fn push_command(
        &mut self,
        db: u32,
        txid: u64,
        words: u32,
        args: Body,
        ping: bool,
    ) -> Result<(), Fault> {
        let lsn = self.count.take()?;
        self.items.push(if ping {
            let acknowledge = false;
            Item::Nothing { lsn, acknowledge }
        } else {
            Item::Command(Command {
                db,
                lsn,
                txid,
                words,
                args,
            })
        });
        Ok(())
    }

    /// Goes on with a body that was not whole; one over the threshold goes to a file as it comes.
    pub(super) fn body(&mut self, layer: &mut Layer, mut open: Box<OpenBody>) -> Result<(), Fault> {
        let (bytes, all) = layer.bounded();
        let fresh = bytes.get(open.walked..).unwrap_or_default();
        let walked = open.walker.walk(fresh)?;
        if all && !walked.done {
            return Err(Fault::invalid(CUT_OFF));
        }
        let end = open.walked + walked.consumed;
        if let Some(file) = &mut open.file {
            let piece = fresh.get(..walked.consumed).unwrap_or_default();
            file.write(piece).map_err(Fault::Spill)?;
            layer.discard(walked.consumed);
        } else if (end - open.body).saturating_add(walked.missing) > self.settings.threshold() {
            self.spill(layer, &mut open, end)?;
        } else if walked.done {
            let start = layer.at + open.body;
            let body = Body::Inline(span(start..layer.at + end));
            self.push_body(layer, open.head, body)?;
            layer.consume(end);
            return Ok(());
        } else {
            open.walked = end;
            layer.open = Open::Body(open);
            let missing = walked.missing;
            return Err(Halt::Incomplete { missing }.into());
        }
        match (walked.done, open.file.take()) {
            (true, Some(file)) => {
                self.push_body(layer, open.head, Body::Spilled(file.finish()))?;
                Ok(())
            }
            (_, file) => {
                open.file = file;
                layer.open = Open::Body(open);
                Err(Halt::Incomplete { missing: 1 }.into())
            }
        }
    }

    /// Moves a body's bytes up to `end` to a new file, and the items before it out of the way.
    fn spill(&mut self, layer: &mut Layer, open: &mut OpenBody, end: usize) -> Result<(), Fault> {
        let rest = layer.rest();
        if let BodyHead::Record { head, .. } = &mut open.head
            && let Text::Raw(key) = &head.key
        {
            let start = key.start as usize;
            let key = rest.get(start..start + key.len as usize);
            head.key = Text::Owned(key.unwrap_or_default().into());
        }
        let mut file = SpillWriter::create_in(&self.settings.spill_dir).map_err(Fault::Spill)?;
        file.write(rest.get(open.body..end).unwrap_or_default())
            .map_err(Fault::Spill)?;
        open.file = Some(file);
        (open.body, open.walked) = (0, 0);
        self.settle(layer);
        layer.discard(end);
        Ok(())
    }

    fn push_body(&mut self, layer: &Layer, head: BodyHead, body: Body) -> Result<(), Fault> {
        match head {
            BodyHead::Record { db, head } => {
                self.push_record(db, head, layer.at, body);
                Ok(())
            }
            BodyHead::Command { db, txid, words } => {
                let ping = match &body {
                    Body::Inline(args) => {
                        let start = args.start as usize;
                        let args = layer.window.get(start..start + args.len as usize);
                        is_ping(words, args.unwrap_or_default())
                    }
                    Body::Spilled(_) => false,
                };
                self.push_command(db, txid, words, body, ping)
            }
        }
    }

    /// A string of journal entries between the records; they start in database 0.
    pub(super) fn journal_blob(&mut self, layer: &mut Layer) -> Result<(), Fault> {
        let rest = layer.rest();
        let mut cursor = Cursor::new(rest);
        cursor.byte()?;
        if cursor.packed()? != 1 {
            return Err(Fault::invalid("a journal blob whose count is not 1"));
        }
        if cursor.peek()? >= 0xC0 {
            let content = read_text(&mut cursor)?;
            let (len, content) = (cursor.position(), content.bytes(rest).to_vec());
            if content.len() > DECODED_LIMIT {
                return Err(Fault::invalid(
                    "a journal blob that unpacks to over 256 KiB",
                ));
            }
            layer.consume(len);
            self.settle(layer);
            return self.decoded_journal_blob(layer.is_inside(), &content);
        }
        let left = cursor.packed()?;
        if left > BLOB_LIMIT {
            return Err(Fault::invalid("a journal blob longer than any entry"));
        }
        let len = cursor.position();
        self.journal_db = 0;
        layer.consume(len);
        layer.journal = Some(left).filter(|left| *left > 0);
        Ok(())
    }

    /// The entries of a journal blob that was an LZF string: a batch of their own.
    fn decoded_journal_blob(&mut self, inside: bool, content: &[u8]) -> Result<(), Fault> {
        let mut layer = Layer::new(inside);
        layer.reserve(content.len());
        layer.window.extend_from_slice(content);
        layer.journal = Some(content.len() as u64).filter(|left| *left > 0);
        self.journal_db = 0;
        while layer.journal.is_some() {
            match std::mem::replace(&mut layer.open, Open::Border) {
                Open::Body(open) => self.body(&mut layer, open)?,
                _ => self.entry(&mut layer)?,
            }
        }
        self.settle(&mut layer);
        Ok(())
    }

    /// Goes on collecting a compressed blob: in memory, or over the threshold in a file.
    pub(super) fn blob(
        &mut self,
        layer: &mut Layer,
        mut open: Box<OpenBlob>,
    ) -> Result<WholeBlob, Fault> {
        let there = layer.rest().len();
        let left = usize::try_from(open.left).unwrap_or(usize::MAX);
        let packed = if open.file.is_none() && left <= self.settings.threshold() {
            if there < left {
                layer.open = Open::Blob(open);
                let missing = left - there;
                return Err(Halt::Incomplete { missing }.into());
            }
            self.settle(layer);
            Packed::Memory(layer.take(left))
        } else {
            let mut file = match open.file.take() {
                Some(file) => file,
                None => SpillWriter::create_in(&self.settings.spill_dir).map_err(Fault::Spill)?,
            };
            let piece = there.min(left);
            file.write(layer.rest().get(..piece).unwrap_or_default())
                .map_err(Fault::Spill)?;
            self.settle(layer);
            layer.discard(piece);
            open.left -= piece as u64;
            if open.left > 0 {
                open.file = Some(file);
                layer.open = Open::Blob(open);
                return Err(Halt::Incomplete { missing: 1 }.into());
            }
            let spill = file.finish();
            Packed::File { spill, at: 0 }
        };
        Ok(WholeBlob {
            codec: open.codec,
            packed,
            chunk: open.chunk,
            place: open.place,
        })
    }
}
