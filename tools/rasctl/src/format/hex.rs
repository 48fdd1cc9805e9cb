//! Bytes as text: hexadecimal digits, `hexdump -C`, `od -A x -t x1`, `xxd`, base64.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use ras_core::{Problem, ProblemKind};

use super::lines;
use crate::input::Input;
use crate::read::{self, Options, Output, Stop};

/// Bytes that `*` ("the same again") may stand for in one input: a dump of a few bytes must not
/// become gigabytes.
const REPEATED_MAX: u64 = 16 << 20;

/// Whether the text is bytes that look like something.
pub(super) fn is_hex(text: &str) -> bool {
    let mut digits = Digits::default();
    let mut bytes = Vec::new();
    // The last line may be cut.
    let whole = text.rfind('\n').filter(|_| text.len() == super::START_MAX);
    for line in text[..whole.unwrap_or(text.len())].lines() {
        if digits.line(line.as_bytes(), &mut bytes).is_err() && bytes.is_empty() {
            return false;
        }
    }
    super::detect_unpacked(&bytes).is_some()
}

pub(super) fn read(
    input: &mut Input,
    options: &Options,
    output: &mut Output<'_>,
) -> Result<(), Stop> {
    let problems = Arc::default();
    let input = std::mem::replace(input, Input::of_bytes(Vec::new()));
    let text = Text {
        input,
        digits: Digits::default(),
        bytes: Vec::new(),
        taken: 0,
        problems: Arc::clone(&problems),
    };
    let mut inside = Input::plain(Box::new(text));
    let done = read::unpacked(&mut inside, options, output);
    let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
    for (line, problem) in problems.drain(..) {
        output.damage(line, problem)?;
    }
    done
}

type Problems = Arc<Mutex<Vec<(Option<u64>, Problem)>>>;

/// Problems kept for the end of the input: beyond it, there is no doubt that it is damaged.
const PROBLEMS_MAX: usize = 1000;

/// The bytes that a text stands for.
struct Text {
    input: Input,
    digits: Digits,
    bytes: Vec<u8>,
    taken: usize,
    problems: Problems,
}

impl Text {
    fn problem(&self, line: Option<u64>, problem: Problem) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < PROBLEMS_MAX {
            problems.push((line, problem));
        }
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.bytes.len() {
            self.taken = 0;
            self.bytes.clear();
            let Some(line) = self.input.line()? else {
                if let Some(problem) = self.input.take_damage() {
                    self.problem(None, problem);
                }
                return Ok(0);
            };
            let (number, offset, cut) = (line.number, line.offset, line.cut);
            let read = self.digits.line(line.bytes, &mut self.bytes);
            if cut {
                self.problem(Some(number), lines::too_long(offset));
            } else if let Err(detail) = read {
                let kind = ProblemKind::Malformed;
                self.problem(Some(number), Problem { offset, kind, detail: detail.into() });
            }
        }
        let count = buffer.len().min(self.bytes.len() - self.taken);
        buffer[..count].copy_from_slice(&self.bytes[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

/// How the bytes are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// Digits only; `0x`, `\x` and commas between bytes are allowed.
    Plain,
    /// An offset, bytes of two digits, perhaps `|text|`.
    Dump,
    /// An offset and a colon, groups of bytes, two blanks, text.
    Xxd,
    Base64,
}

/// Reads lines of one style.
#[derive(Default)]
struct Digits {
    style: Option<Style>,
    /// The bytes of the last line of a dump, and where they end.
    last: Vec<u8>,
    end: u64,
    /// `*` was met.
    again: bool,
    /// Bytes that were repeated so far.
    repeated: u64,
    left_out: bool,
    /// Bits of base64 that make no byte yet, and how many.
    bits: u32,
    bit_count: u32,
}

impl Digits {
    /// Appends the bytes of a line. Nothing is appended where it has none, or is wrong.
    fn line(&mut self, line: &[u8], bytes: &mut Vec<u8>) -> Result<(), &'static str> {
        let line = std::str::from_utf8(line).map_err(|_| "not hexadecimal digits")?;
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            return Ok(());
        }
        let style = match self.style {
            Some(style) => style,
            None => *self.style.insert(style(line).ok_or("not hexadecimal digits")?),
        };
        let from = bytes.len();
        let read = match style {
            Style::Plain => plain(line, bytes),
            Style::Base64 => self.base64(line, bytes),
            Style::Dump | Style::Xxd => self.dump(style, line, bytes),
        };
        if read.is_none() {
            bytes.truncate(from);
            return Err(match style {
                Style::Base64 => "not base64",
                _ => "not hexadecimal digits",
            });
        }
        if std::mem::take(&mut self.left_out) {
            return Err("stands for too many repeated bytes, which are left out");
        }
        Ok(())
    }

    fn dump(&mut self, style: Style, line: &str, bytes: &mut Vec<u8>) -> Option<()> {
        if line == "*" {
            self.again = true;
            return Some(());
        }
        let (offset, rest) = line.split_once([' ', ':']).unwrap_or((line, ""));
        let offset = u64::from_str_radix(offset, 16).ok()?;
        let rest = rest.trim_start();
        let digits = match style {
            Style::Xxd => rest.split("  ").next(),
            _ => rest.split('|').next(),
        };
        let mut found = Vec::new();
        plain(digits.unwrap_or_default(), &mut found)?;
        if std::mem::take(&mut self.again) && !self.last.is_empty() {
            let gap = offset.saturating_sub(self.end);
            self.left_out = gap > REPEATED_MAX - self.repeated;
            if !self.left_out {
                self.repeated += gap;
                let gap = usize::try_from(gap).ok()?;
                bytes.extend(self.last.iter().cycle().take(gap));
            }
        }
        self.end = offset.saturating_add(found.len() as u64);
        bytes.extend_from_slice(&found);
        if !found.is_empty() {
            self.last = found;
        }
        Some(())
    }

    fn base64(&mut self, line: &str, bytes: &mut Vec<u8>) -> Option<()> {
        for character in line.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
            let value = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                b'=' => {
                    // What is left are the bits that fill up the last byte.
                    (self.bits, self.bit_count) = (0, 0);
                    continue;
                }
                _ => return None,
            };
            self.bits = self.bits << 6 | u32::from(value);
            self.bit_count += 6;
            if self.bit_count >= 8 {
                self.bit_count -= 8;
                bytes.push((self.bits >> self.bit_count).to_le_bytes()[0]);
                self.bits &= (1 << self.bit_count) - 1;
            }
        }
        Some(())
    }
}

/// How a text is written whose first line this is.
fn style(line: &str) -> Option<Style> {
    let (first, rest) = line.split_once([' ', ':']).unwrap_or((line, ""));
    let is_offset = (4..=16).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_hexdigit());
    if is_offset && line.as_bytes().get(first.len()) == Some(&b':') {
        return Some(Style::Xxd);
    }
    let mut words = rest.split('|').next().unwrap_or_default().split_whitespace().peekable();
    let of_two = words.peek().is_some() && words.all(|word| word.len() == 2);
    if is_offset && first.len() >= 6 && of_two {
        return Some(Style::Dump);
    }
    if plain(line, &mut Vec::new()).is_some() {
        return Some(Style::Plain);
    }
    Digits::default().base64(line, &mut Vec::new()).map(|()| Style::Base64)
}

/// Pairs of digits.
fn plain(text: &str, bytes: &mut Vec<u8>) -> Option<()> {
    for word in text.split([' ', '\t', ',', ';', '{', '}']) {
        for part in word.split("\\x") {
            let digits = part.strip_prefix("0x").unwrap_or(part);
            if !digits.len().is_multiple_of(2) {
                return None;
            }
            for pair in digits.as_bytes().chunks_exact(2) {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(pair[0])? << 4 | digit(pair[1])?;
                bytes.push(value.to_le_bytes()[0]);
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> (Vec<u8>, Vec<u64>) {
        let problems = Problems::default();
        let mut text = Text {
            input: Input::of_bytes(text.as_bytes().to_vec()),
            digits: Digits::default(),
            bytes: Vec::new(),
            taken: 0,
            problems: Arc::clone(&problems),
        };
        let mut bytes = Vec::new();
        text.read_to_end(&mut bytes).unwrap();
        let problems = problems.lock().unwrap();
        (bytes, problems.iter().filter_map(|(line, _)| *line).collect())
    }

    #[test]
    fn every_style_gives_the_same_bytes() {
        let expected = b"CPER\x01\x02\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x07\x00\x00\x00 !";
        for text in [
            "43504552 0102ffffffff 010000000000 07 000000 2021",
            "# a comment\n43 50 45 52 01 02 ff ff\nFF FF 01 00 00 00 00 00 # here too\n07 00 00 00 20 21\n",
            "0x43, 0x50, 0x45, 0x52, 0x01, 0x02, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00,\r\n 0,",
            "\\x43\\x50\\x45\\x52\\x01\\x02\\xff\\xff\\xff\\xff\\x01\\x00\\x00\\x00\\x00\\x00\\x07\\x00\\x00\\x00\\x20\\x21",
            "00000000  43 50 45 52 01 02 ff ff  ff ff 01 00 00 00 00 00  |CPER............|\n\
             00000010  07 00 00 00 20 21                                 |.... !|\n00000016\n",
            "000000 43 50 45 52 01 02 ff ff ff ff 01 00 00 00 00 00\n000010 07 00 00 00 20 21\n000016\n",
            "00000000: 4350 4552 0102 ffff ffff 0100 0000 0000  CPER............\n\
             00000010: 0700 0000 2021                           .... !\n",
            "Q1BFUgEC/////wEAAAAAAAcA\nAAAgIQ==\n",
        ] {
            if text.ends_with(" 0,") {
                assert_eq!(bytes(text), (expected[..12].to_vec(), vec![2]), "{text}");
                continue;
            }
            assert_eq!(bytes(text), (expected.to_vec(), vec![]), "{text}");
        }
    }

    #[test]
    fn repeated_lines_are_filled_in_but_not_without_limit() {
        let line =
            "00000000  00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f  |................|\n*\n";
        let (found, problems) = bytes(&format!("{line}00000028\n"));
        let expected: Vec<u8> = (0..40).map(|at| at % 16).collect();
        assert_eq!((found, problems), (expected, vec![]));
        let (found, problems) = bytes(&format!("{line}7ffffff0  01\n"));
        assert_eq!((found.len(), problems), (17, vec![3]));
    }

    #[test]
    fn a_wrong_line_costs_no_more_than_itself() {
        assert_eq!(bytes("43504552\n4g\n123\n00\n"), (b"CPER\0".to_vec(), vec![2, 3]));
        for text in ["", "hello", "CPER", "deadbeef", "00000000: ", "4350455"] {
            assert!(!is_hex(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_ends(text in "[0-9a-f:*| \n+=-]{0,400}") {
            let _ = bytes(&text);
            let _ = is_hex(&text);
        }
    }
}
