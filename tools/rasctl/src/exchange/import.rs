//! Lists of bad pages as other programs print them, told apart line by line.
//!
//! | Lines | From |
//! |---|---|
//! | JSON objects | `rasctl pages export --as json`, `pages list --json` |
//! | `0x…`, `pfn:…`, ranges | people; see [`place`](super::place) |
//! | `memmap=SIZE$ADDR,…` anywhere | Linux command lines, GRUB configuration, Memtest86+ "Linux memmap" |
//! | `badram`, `GRUB_BADRAM` | GRUB, Memtest86+ (which breaks long lines), MemTest86 reports |
//! | `cutmem FROM TO` | GRUB |
//! | `badpage=…` | Xen |
//! | `badmemorylist …` | `bcdedit /enum {badmemory}`, and `bcdedit /set` commands |
//! | `ADDR: total N seen "…" offline` | `mcelog --client`, "Per page corrected memory statistics" |
//! | `… Result of offlining page at ADDR: offlined` | rasdaemon's log |
//! | frames, `0x20..0x2a` | Memtest86+ "bad pages", with [`Bare::Frames`] |
//!
//! Time is linear in the text but for patterns, whose pages are bounded by [`PAGES_MAX`].

use ras_core::{PAGE_SIZE, Pfn, PfnRange, PhysAddr, RetiredPage};

use super::PAGES_MAX;
use super::pattern::Pattern;
use super::place::{Place, hex, number, size_of};

/// What a number without any word around it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Bare {
    /// `0x…` is an address; a decimal number is refused.
    #[default]
    Addresses,
    /// Page frame numbers, single or `FIRST..LAST`, hexadecimal or decimal.
    Frames,
}

/// Something to put on the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// Pages of which no more is known.
    Range(PfnRange),
    /// A page with all that our own list knew of it.
    Page(Box<RetiredPage>),
}

/// A line and what there is to say about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remark {
    /// Number of the line, from 1.
    pub line: usize,
    /// What.
    pub text: String,
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// The pages, in the order of the text; the same one may come twice.
    pub items: Vec<Item>,
    /// Lines that were understood in a way worth a word.
    pub notes: Vec<Remark>,
    /// Lines that were not understood: nothing of them is in `items`.
    pub refused: Vec<Remark>,
    /// Pages in `items`.
    pub pages: u64,
}

/// Reads a list. UTF-8, or UTF-16 with a byte order mark, as PowerShell writes what bcdedit prints.
#[must_use]
pub fn parse(bytes: &[u8], bare: Bare) -> Imported {
    let text = decode(bytes);
    let mut reader =
        Reader { bare, imported: Imported::default(), open: Open::Nothing, found: Vec::new() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let next = lines.peek().map_or("", |(_, next)| next.trim());
        reader.line(index + 1, line, is_rule(next));
    }
    reader.close();
    reader.imported
}

fn decode(bytes: &[u8]) -> String {
    let units = |of: fn([u8; 2]) -> u16| -> Vec<u16> {
        bytes[2..].chunks_exact(2).map(|pair| of([pair[0], pair[1]])).collect()
    };
    match bytes {
        [0xff, 0xfe, ..] => String::from_utf16_lossy(&units(u16::from_le_bytes)),
        [0xfe, 0xff, ..] => String::from_utf16_lossy(&units(u16::from_be_bytes)),
        _ => String::from_utf8_lossy(bytes).trim_start_matches('\u{feff}').into(),
    }
}

/// A list that may go on in the next line.
enum Open {
    Nothing,
    /// bcdedit puts one frame on each further line.
    Frames,
    /// Memtest86+ breaks patterns anywhere between numbers: an address may wait for its mask.
    Patterns {
        line: usize,
        address: Option<u64>,
        comma: bool,
    },
}

struct Reader {
    bare: Bare,
    imported: Imported,
    open: Open,
    /// Of the line at hand.
    found: Vec<PfnRange>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str, is_title: bool) {
        let text = line.trim();
        let result = self.read(number, line, text, is_title);
        let found = std::mem::take(&mut self.found);
        match result {
            Ok(()) => self.take(number, found),
            Err(why) => self.refuse(number, why),
        }
    }

    /// Tells what a line is by the words in it.
    fn read(
        &mut self,
        number: usize,
        line: &str,
        text: &str,
        is_title: bool,
    ) -> Result<(), String> {
        let lower = text.to_ascii_lowercase();
        let is_indented = line.starts_with([' ', '\t']);
        match &mut self.open {
            Open::Frames
                if is_indented && text.split_whitespace().all(|word| word.starts_with("0x")) =>
            {
                return self.frames(text);
            }
            Open::Patterns { comma, .. } if (*comma || is_indented) && is_pairs(text) => {
                return self.pairs(number, text);
            }
            Open::Nothing => {}
            _ => self.close(),
        }
        if is_comment(text, &lower) {
            Ok(())
        } else if text.starts_with('{') && text.ends_with('}') && text.contains(':') {
            self.json(number, text)
        } else if lower.contains("memmap=") {
            self.memmap(text)
        } else if let Some((_, value)) = text.split_once("badpage=") {
            self.xen(value)
        } else if let Some(at) = lower.find("badmemorylist") {
            self.open = Open::Frames;
            self.frames(&text[at + "badmemorylist".len()..])
        } else if let Some(at) = lower.find("badram") {
            let value = text[at + "badram".len()..].trim_start_matches([' ', '\t', '=', '"', '\'']);
            self.open = Open::Patterns { line: number, address: None, comma: false };
            self.pairs(number, value.trim_end_matches(['"', '\'']))
        } else if let Some(value) = lower.strip_prefix("cutmem") {
            self.cutmem(value)
        } else if lower.contains("{badmemory}") || lower.contains("badmemoryaccess") {
            // bcdedit's object name, the prompt before its command, its other setting.
            Ok(())
        } else if is_rule(text) || is_title {
            // A title, in the language of that Windows, above a line of dashes.
            Ok(())
        } else if text == "Per page corrected memory statistics:" {
            Ok(())
        } else if let Some((address, rest)) = text.split_once(": total ") {
            self.mcelog(number, address, rest)
        } else if let Some((_, rest)) = text.split_once("Result of offlining page at ") {
            self.rasdaemon(number, rest)
        } else {
            self.places(number, text)
        }
    }

    fn json(&mut self, number: usize, text: &str) -> Result<(), String> {
        let page: RetiredPage =
            serde_json::from_str(text).map_err(|error| format!("not a page of ours: {error}"))?;
        if page.pfn.0 >> persist_store::exclusion::PFN_BITS != 0 {
            return Err("no machine has memory at such an address".into());
        }
        if self.imported.pages >= PAGES_MAX {
            return Err(too_many(1));
        }
        if page.state.is_suspended() {
            let text =
                format!("{} is {} there: it keeps no page out of use", page.pfn.addr(), page.state);
            self.imported.notes.push(Remark { line: number, text: format!("left out: {text}") });
            return Ok(());
        }
        self.imported.pages += 1;
        self.imported.items.push(Item::Page(Box::new(page)));
        Ok(())
    }

    /// All parameters in the line, whatever stands around them, and however their `$` is quoted.
    fn memmap(&mut self, text: &str) -> Result<(), String> {
        let text = text.replace('\\', "");
        for value in text.split("memmap=").skip(1) {
            let end = value.find(|c: char| c.is_whitespace() || c == '"' || c == '\'');
            for region in value[..end.unwrap_or(value.len())].split(',') {
                let (size, start) = region.split_once('$').ok_or_else(|| {
                    format!("memmap={region} reserves nothing: SIZE$ADDRESS does")
                })?;
                let range =
                    size_of(size).zip(size_of(start)).and_then(|(size, start)| bytes(start, size));
                self.found.push(range.ok_or_else(|| format!("memmap={region}: not SIZE$ADDRESS"))?);
            }
        }
        Ok(())
    }

    fn xen(&mut self, value: &str) -> Result<(), String> {
        let end = value.find(|c: char| c.is_whitespace() || c == '"' || c == '\'');
        let items = value[..end.unwrap_or(value.len())].split(',');
        for item in items {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let range =
                number(first).zip(number(last)).and_then(|(first, last)| frames(first, last));
            self.found
                .push(range.ok_or_else(|| format!("badpage={item}: not a frame or FIRST-LAST"))?);
        }
        Ok(())
    }

    /// bcdedit prints and takes frames as `0x…`.
    fn frames(&mut self, text: &str) -> Result<(), String> {
        for word in text.split([' ', '\t', '"']).filter(|word| !word.is_empty()) {
            let frame = word.strip_prefix("0x").and_then(hex);
            let range = frame.and_then(|frame| frames(frame, frame));
            self.found
                .push(range.ok_or_else(|| format!("{word:?} is no page frame number (0x…)"))?);
        }
        Ok(())
    }

    fn pairs(&mut self, number: usize, text: &str) -> Result<(), String> {
        let Open::Patterns { line, address: mut waiting, .. } = self.open else { return Ok(()) };
        let mut begun = line;
        let mut narrow = false;
        let words = || text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        for word in words() {
            // GRUB reads hexadecimal with and without a prefix.
            let digits =
                word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
            let value = hex(digits).ok_or_else(|| format!("{word:?} is no address and no mask"))?;
            let Some(address) = waiting.take() else {
                (waiting, begun) = (Some(value), number);
                continue;
            };
            // Eight digits come from testers of 32 bits, to whom no address is longer.
            let is_narrow = digits.len() <= 8 && value >> 31 == 1 && address >> 32 == 0;
            narrow |= is_narrow;
            let mask = if is_narrow { value | !0 << 32 } else { value };
            let pages = Pattern { address, mask }.pages();
            self.found.extend(pages.map_err(|why| format!("{address:#x},{word}: {why}"))?);
        }
        if narrow {
            let text = "masks of 8 digits are taken for addresses below 4 GiB only".into();
            self.imported.notes.push(Remark { line: number, text });
        }
        let comma = text.ends_with(',');
        self.open = Open::Patterns { line: begun, address: waiting, comma };
        Ok(())
    }

    fn cutmem(&mut self, value: &str) -> Result<(), String> {
        let mut words = value.split_whitespace();
        let (from, to) = (words.next().and_then(size_of), words.next().and_then(size_of));
        let range = from.zip(to).and_then(|(from, to)| bytes(from, to.checked_sub(from)?));
        let whole = words.next().is_none();
        self.found.push(range.filter(|_| whole).ok_or("not `cutmem FROM TO`")?);
        Ok(())
    }

    /// What mcelog offlined, or tried to. Pages it only counts errors on are not bad yet.
    fn mcelog(&mut self, number: usize, address: &str, rest: &str) -> Result<(), String> {
        let address = hex(address).ok_or("not a line of mcelog's page statistics")?;
        let state = rest.strip_suffix(" triggered").unwrap_or(rest);
        let state = state.rsplit_once("\" ").map(|(_, state)| state);
        self.offlined(number, address, state, ["offline", "offline-failed"])
    }

    fn rasdaemon(&mut self, number: usize, rest: &str) -> Result<(), String> {
        let (address, state) = rest.split_once(": ").ok_or("not a line of rasdaemon's log")?;
        let address = address.strip_prefix("0x").and_then(hex);
        let address = address.ok_or("not a line of rasdaemon's log")?;
        self.offlined(number, address, Some(state), ["offlined", "offline-failed"])
    }

    fn offlined(
        &mut self,
        line: usize,
        address: u64,
        state: Option<&str>,
        bad: [&str; 2],
    ) -> Result<(), String> {
        match state.map(str::trim) {
            Some(state) if bad.contains(&state) => {
                let range = bytes(address, 1);
                self.found.push(range.ok_or("no machine has memory at such an address")?);
            }
            Some("online") => {
                let text = format!("left out: {address:#x} was counted, not condemned");
                self.imported.notes.push(Remark { line, text });
            }
            _ => return Err("neither offline nor online".into()),
        }
        Ok(())
    }

    fn places(&mut self, line: usize, text: &str) -> Result<(), String> {
        for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            if self.bare == Bare::Frames && !word.starts_with("pfn:") {
                let (first, last) = word.split_once("..").unwrap_or((word, word));
                let range =
                    number(first).zip(number(last)).and_then(|(first, last)| frames(first, last));
                self.found.push(range.ok_or_else(|| format!("{word:?} is no page frame number"))?);
                continue;
            }
            let place = Place::parse(word).map_err(|why| format!("not understood: {why}"))?;
            if place.rounded {
                let text = format!("{word} is taken for {}", super::shown(place.range));
                self.imported.notes.push(Remark { line, text });
            }
            self.found.push(place.range);
        }
        Ok(())
    }

    fn take(&mut self, line: usize, found: Vec<PfnRange>) {
        let count = found.iter().fold(0_u64, |sum, range| sum.saturating_add(range.count));
        if self.imported.pages.saturating_add(count) > PAGES_MAX {
            return self.refuse(line, too_many(count));
        }
        self.imported.pages += count;
        self.imported.items.extend(found.into_iter().map(Item::Range));
    }

    fn refuse(&mut self, line: usize, text: String) {
        self.imported.refused.push(Remark { line, text });
    }

    /// Ends a list that could have gone on.
    fn close(&mut self) {
        if let Open::Patterns { line, address: Some(address), .. } = self.open {
            self.refuse(line, format!("the address {address:#x} has no mask"));
        }
        self.open = Open::Nothing;
    }
}

fn too_many(count: u64) -> String {
    format!("{count} more pages: one import condemns at most {PAGES_MAX}")
}

fn is_comment(text: &str, lower: &str) -> bool {
    text.is_empty()
        || text.starts_with(['#', ';'])
        || text.starts_with("//")
        || text.starts_with("::")
        || lower == "rem"
        || lower.starts_with("rem ")
}

/// A line of dashes, as under a title.
fn is_rule(text: &str) -> bool {
    text.len() > 2 && text.bytes().all(|byte| byte == b'-')
}

fn is_pairs(text: &str) -> bool {
    let mut words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty()).peekable();
    words.peek().is_some() && words.all(|word| word.strip_prefix("0x").and_then(hex).is_some())
}

/// The pages of some bytes; part of a page is the whole page.
fn bytes(start: u64, size: u64) -> Option<PfnRange> {
    let last = start.checked_add(size.checked_sub(1)?)?;
    frames(PhysAddr(start).pfn().0, PhysAddr(last).pfn().0)
}

/// From the first to the last one.
fn frames(first: u64, last: u64) -> Option<PfnRange> {
    let in_reach = last < 1 << persist_store::exclusion::PFN_BITS;
    let count = last.checked_sub(first).filter(|_| in_reach)? + 1;
    Some(PfnRange { start: Pfn(first), count })
}

const _: () = assert!(PAGE_SIZE == 4096, "the forms of other programs count in pages of 4 KiB");

#[cfg(test)]
mod tests {
    use super::*;

    /// The runs of a text that is understood whole.
    fn read(text: &str) -> Vec<(u64, u64)> {
        let imported = parse(text.as_bytes(), Bare::Addresses);
        assert_eq!(imported.refused, [], "{text}");
        ranges(imported)
    }

    fn ranges(imported: Imported) -> Vec<(u64, u64)> {
        let ranges = imported.items.into_iter().map(|item| match item {
            Item::Range(range) => range,
            Item::Page(page) => PfnRange::single(page.pfn),
        });
        let runs = super::super::runs(ranges.collect());
        runs.into_iter().map(|run| (run.start.0, run.count)).collect()
    }

    fn refused(text: &str) -> Vec<usize> {
        let imported = parse(text.as_bytes(), Bare::Addresses);
        imported.refused.iter().map(|remark| remark.line).collect()
    }

    #[test]
    fn what_bcdedit_prints_is_read_in_any_language() {
        let english = "C:\\Windows\\system32>bcdedit /enum {badmemory}\r\n\r\nRAM Defects\r\n-----------\r\n\
                       identifier              {badmemory}\r\nbadmemorylist           0xffe38\r\n\
                       \x20                       0x100f\r\n";
        assert_eq!(read(english), [(0x100f, 1), (0xffe38, 1)]);
        let german =
            english.replace("RAM Defects", "RAM-Defekte").replace("identifier", "Bezeichner");
        let mut utf16 = vec![0xff, 0xfe];
        utf16.extend(german.encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(ranges(parse(&utf16, Bare::Addresses)), [(0x100f, 1), (0xffe38, 1)]);
        let command =
            "bcdedit /set {badmemory} badmemorylist 0xb7 0xb8\nbcdedit /set badmemoryaccess No\n";
        assert_eq!(read(command), [(0xb7, 2)]);
    }

    #[test]
    fn command_lines_are_read_however_they_are_quoted() {
        for line in [
            "memmap=64K$0x18690000",
            "memmap=0x10000$0x18690000",
            "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro memmap=64K$0x18690000 quiet",
            "linux /vmlinuz memmap=64K\\$0x18690000",
            "GRUB_CMDLINE_LINUX=\"quiet memmap=64K\\\\\\$0x18690000\"",
            "memmap=32K$0x18690000 memmap=32K$0x18698000",
            "memmap=32K$0x18690000,32K$0x18698000",
        ] {
            assert_eq!(read(line), [(0x18690, 16)], "{line}");
        }
        // Memtest86+ counts in bytes, not in pages.
        assert_eq!(read("memmap=0x8$0x18690ff8,0x10$0x20000ff8"), [(0x18690, 1), (0x20000, 2)]);
        assert_eq!(
            refused("memmap=64K@0x18690000\nmemmap=64K8690000\nmemmap=$\nmemmap=exactmap"),
            [1, 2, 3, 4]
        );
    }

    #[test]
    fn patterns_are_read_as_grub_and_memtest_write_them() {
        assert_eq!(read("badram 0x7ddf0000,0xffffffffffffc000"), [(0x7ddf0, 4)]);
        assert_eq!(read("badram=0x7ddf0000,0xffffc000"), [(0x7ddf0, 4)], "of 32 bits");
        assert_eq!(read("GRUB_BADRAM=\"7ddf0000,ffffc000\""), [(0x7ddf0, 4)]);
        let broken = "badram=0x0000000012345678,0xfffffffffffffff8,0x0000000022345678,\n       \
                      0xfffffffffffffff8,0x32345678,\n       0xfffffffffffffff8\n0x5000\n";
        assert_eq!(read(broken), [(0x5, 1), (0x12345, 1), (0x22345, 1), (0x32345, 1)]);
        assert_eq!(refused("badram=0x1000"), [1]);
        assert_eq!(refused("badram=0x1000,0xff\nbadram x"), [1, 2]);
    }

    #[test]
    fn pages_that_mcelog_and_rasdaemon_offlined_are_read() {
        let mcelog = "Per page corrected memory statistics:\n12345000: total 12 seen \"2 in 24h\" offline triggered\n\n\
                      777000: total 1 seen \"1 in 24h\" online\n\n888000: total 9 seen \"2 in 24h\" offline-failed\n\n";
        assert_eq!(read(mcelog), [(0x888, 1), (0x12345, 1)]);
        let rasdaemon = "rasdaemon: <CRIT> Result of offlining page at 0x12345000: offlined\n";
        assert_eq!(read(rasdaemon), [(0x12345, 1)]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named_and_nothing_of_it_is_taken() {
        let text = "# by hand\n0x1000 pfn:7 0x3000-0x4fff\n17\n0x9000 what\nbadpage=0x10,0x20-0x21\n\
                    cutmem 0x40000 0x41000\ncutmem 1\nbadpage=x\n{\"pfn\": 1}\n";
        let imported = parse(text.as_bytes(), Bare::Addresses);
        let lines: Vec<usize> = imported.refused.iter().map(|remark| remark.line).collect();
        assert_eq!(lines, [3, 4, 7, 8, 9]);
        assert_eq!(ranges(imported), [(1, 1), (3, 2), (7, 1), (0x10, 1), (0x20, 2), (0x40, 1)]);

        let frames = parse(b"0x20,0x22..0x2a,\n43 pfn:44", Bare::Frames);
        assert_eq!(frames.refused, []);
        assert_eq!(ranges(frames), [(0x20, 1), (0x22, 11)]);
    }

    #[test]
    fn more_than_one_import_may_condemn_is_refused() {
        let all = "0x100000000+256M\n0x1000\n";
        let imported = parse(all.as_bytes(), Bare::Addresses);
        assert_eq!((imported.pages, imported.refused[0].line), (PAGES_MAX, 2));
        assert_eq!(refused("0x0-0xffffffffff\nmemmap=1T$0\nbadram=0x0,0x1000"), [1, 2, 3]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = parse(&bytes, Bare::Frames);
        }

        #[test]
        fn no_words_make_it_panic(
            words in proptest::collection::vec(proptest::sample::select(vec![
                "memmap=", "$", "0x1000", ",", "badram=", "badram", "\n", "\n   ", "0xffffffffffffffff", "-",
                "badmemorylist", "badpage=", "cutmem", " ", "pfn:", "+", "4K", "0", "{", "}", ":", "{badmemory}",
                "---", "..", "12: total ", "\" offline", "Result of offlining page at ", "99999999999999999999",
            ]), 0..24),
        ) {
            let _ = parse(words.concat().as_bytes(), Bare::Addresses);
        }
    }
}
