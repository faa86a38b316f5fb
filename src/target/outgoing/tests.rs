use super::words::Beginning;
use super::*;
use crate::entry::SpillWriter;
use proptest::prelude::*;

fn spill(bytes: &[u8]) -> Spill {
    let mut writer = SpillWriter::create_in(&std::env::temp_dir()).unwrap();
    writer.write(bytes).unwrap();
    writer.finish()
}

fn wire(out: &Outgoing, mut place: Place) -> Vec<u8> {
    let mut wire = Vec::new();
    loop {
        let count = match out.piece(place) {
            Piece::Bytes(bytes) => {
                wire.extend_from_slice(bytes);
                bytes.len() as u64
            }
            Piece::File { spill, offset, len } => {
                let mut buffer = vec![0; len.min(3) as usize];
                let read = spill.read_at(&mut buffer, offset).unwrap();
                wire.extend_from_slice(&buffer[..read]);
                read as u64
            }
            Piece::End => return wire,
        };
        place = out.advance(place, count);
    }
}

fn three() -> Outgoing {
    let mut out = Outgoing::new();
    out.command(3, Some(7));
    out.word(b"set");
    out.word(b"k");
    out.int(-12);
    out.command(4, Some(8));
    out.word(b"RESTORE");
    out.word(b"big");
    out.word(b"0");
    out.word_of(13);
    out.raw(b"<");
    out.file(&spill(b"0123456789"), 2, 6);
    out.raw(b"|");
    out.file(&spill(b"abcd"), 0, 4);
    out.raw(b">");
    out.end_word();
    out.command(2, None);
    out.word(b"DEL");
    out.word(b"gone");
    out
}

const FIRST: &[u8] = b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$3\r\n-12\r\n";
const SECOND: &[u8] = b"*4\r\n$7\r\nRESTORE\r\n$3\r\nbig\r\n$1\r\n0\r\n$13\r\n<234567|abcd>\r\n";
const THIRD: &[u8] = b"*2\r\n$3\r\nDEL\r\n$4\r\ngone\r\n";

#[test]
fn file_parts_stand_where_they_were_put() {
    let out = three();
    let expected = [FIRST, SECOND, THIRD].concat();
    assert_eq!(wire(&out, Place::default()), expected);
    assert_eq!(out.len(), expected.len() as u64);
    assert_eq!(out.in_memory(), expected.len() - 10);
    assert_eq!(wire(&out, out.place_of(1)), [SECOND, THIRD].concat());
    assert_eq!(wire(&out, out.place_of(3)), b"");
}

#[test]
fn a_command_is_described_by_what_was_encoded() {
    let out = three();
    let first = out.describe(0);
    assert_eq!((first.name.as_str(), first.key()), ("SET", &b"k"[..]));
    assert_eq!((first.count, first.lsn), (3, Some(7)));
    let second = out.describe(1);
    assert_eq!(second.words[2], b"<234567|abcd>");
    let mut copy = Vec::new();
    out.words(1).nth(3).unwrap().copy_to(&mut copy).unwrap();
    assert_eq!(copy, b"<234567|abcd>");
    assert_eq!(out.describe(2).key(), b"gone");
    assert_eq!(out.describe(3).name, "");
}

#[test]
fn a_removed_command_leaves_the_others_as_they_were() {
    for (gone, rest) in [
        (0, [SECOND, THIRD]),
        (1, [FIRST, THIRD]),
        (2, [FIRST, SECOND]),
    ] {
        let mut out = three();
        out.remove(gone);
        assert_eq!(wire(&out, Place::default()), rest.concat());
        assert_eq!(wire(&out, out.place_of(1)), rest[1]);
        assert_eq!(out.len(), rest.concat().len() as u64);
        out.truncate_to(1);
        assert_eq!(wire(&out, Place::default()), rest[0]);
        assert_eq!(out.len(), rest[0].len() as u64);
    }
}

#[test]
fn a_command_is_appended_as_it_is_with_what_it_has_in_files() {
    let (from, mut to) = (three(), Outgoing::new());
    for n in [1, 0, 2, 1] {
        to.append(&from, n);
    }
    assert_eq!(
        wire(&to, Place::default()),
        [SECOND, FIRST, THIRD, SECOND].concat()
    );
    assert_eq!(wire(&to, to.place_of(2)), [THIRD, SECOND].concat());
    assert_eq!((to.lsn(0), to.lsn(1), to.commands()), (Some(8), Some(7), 4));
    let word = |n, index| to.word_at(n, index).map(|word| word.head(9));
    assert_eq!(word(0, 1), Some(b"big".to_vec()));
    assert_eq!(word(3, 3), Some(b"<234567|a".to_vec()));
    assert_eq!(word(1, 3), None);
    assert_eq!(to.word_at(0, 3).unwrap().in_memory(), None);
    assert_eq!(to.word_at(1, 1).unwrap().in_memory(), Some(&b"k"[..]));
}

proptest! {
    #[test]
    fn words_come_back_as_they_went_in(
        commands in prop::collection::vec(
            prop::collection::vec((prop::collection::vec(any::<u8>(), 0..110), any::<bool>()), 1..6),
            0..6,
        ),
    ) {
        let mut out = Outgoing::new();
        for words in &commands {
            out.command(words.len(), None);
            for (word, in_file) in words {
                if *in_file {
                    out.word_of(word.len() as u64);
                    out.file(&spill(word), 0, word.len() as u64);
                    out.end_word();
                } else {
                    out.word(word);
                }
            }
        }
        prop_assert_eq!(out.commands(), commands.len());
        prop_assert_eq!(out.len(), wire(&out, Place::default()).len() as u64);
        for (n, words) in commands.iter().enumerate() {
            let read: Vec<_> = out.words(n).map(|word| word.head(200)).collect();
            let expected: Vec<_> = words.iter().map(|(word, _)| word.clone()).collect();
            prop_assert_eq!(read, expected);
            let second = words.get(1).map(|(word, _)| word.as_slice());
            let told = Beginning {
                words: words.len(),
                name: &words[0].0,
                second,
            };
            let told = out.is_in_memory().then_some(told);
            prop_assert_eq!(out.beginning(n), told);
        }
    }
}
