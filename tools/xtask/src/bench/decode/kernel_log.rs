//! A kernel log of any size: mostly the chatter of a healthy machine, some hardware errors.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::random::Random;
use super::registers::{self, Maker, Registers};

/// What is in a log that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Contents {
    pub(super) bytes: u64,
    pub(super) lines: u64,
    /// Lines with "Hardware Error" in them: what grep has to count.
    pub(super) hardware_error_lines: u64,
    /// Groups of lines that are one error each.
    pub(super) errors: u64,
}

/// Lines between two errors. A machine with so many is in trouble; fewer would make the scan easier.
const LINES_PER_ERROR: u64 = 1000;

/// Lines of the piece the log is made of. Formatting them is slow in a debug build, so it is done once;
/// the pieces differ in their times, which run on.
const LINES_PER_PIECE: u64 = 50_000;

/// Seconds a piece covers.
const SECONDS_PER_PIECE: u64 = 3600;

/// Where the digits of the seconds are in every line: after the bracket.
const SECONDS_DIGITS: usize = 8;

/// Writes whole pieces until there are at least `bytes`.
pub(super) fn write(bytes: u64, out: &mut dyn Write) -> io::Result<Contents> {
    let (mut text, one) = piece();
    let stamps: Vec<usize> = line_starts(&text).map(|start| start + 1).collect();
    let mut all = Contents::default();
    while all.bytes < bytes {
        out.write_all(&text)?;
        all.bytes += one.bytes;
        all.lines += one.lines;
        all.hardware_error_lines += one.hardware_error_lines;
        all.errors += one.errors;
        for stamp in &stamps {
            advance(&mut text[*stamp..*stamp + SECONDS_DIGITS], SECONDS_PER_PIECE);
        }
    }
    Ok(all)
}

fn line_starts(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let after = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after).filter(|start| *start < text.len())
}

/// Adds `seconds` to a number right-aligned in spaces, as the kernel prints it.
fn advance(digits: &mut [u8], seconds: u64) {
    let mut carry = seconds;
    for digit in digits.iter_mut().rev() {
        if carry == 0 {
            return;
        }
        let sum = u64::from(digit.checked_sub(b'0').unwrap_or(0)) + carry;
        *digit = b'0' + u8::try_from(sum % 10).unwrap_or(0);
        carry = sum / 10;
    }
}

fn piece() -> (Vec<u8>, Contents) {
    let mut random = Random::new(0x6b6d_7367);
    let mut banks = registers::sets(Maker::Intel, 64).into_iter().cycle();
    let mut writer = Piece { text: String::new(), seconds: 0, micros: 0 };
    let mut errors = 0;
    for line in 0..LINES_PER_PIECE {
        let micros = line * SECONDS_PER_PIECE * 1_000_000 / LINES_PER_PIECE;
        (writer.seconds, writer.micros) = (micros / 1_000_000, micros % 1_000_000);
        if line % LINES_PER_ERROR == LINES_PER_ERROR / 2 {
            errors += 1;
            match errors % 4 {
                0 => writer.firmware_record(&mut random),
                1 => writer.edac(&mut random),
                _ => {
                    if let Some(registers) = banks.next() {
                        writer.machine_check(&registers, &mut random);
                    }
                }
            }
        } else {
            writer.chatter(&mut random);
        }
    }
    let text = writer.text;
    let contents = Contents {
        bytes: text.len() as u64,
        lines: text.lines().count() as u64,
        hardware_error_lines: text.lines().filter(|line| line.contains("Hardware Error")).count()
            as u64,
        errors,
    };
    (text.into_bytes(), contents)
}

struct Piece {
    text: String,
    seconds: u64,
    micros: u64,
}

impl Piece {
    fn line(&mut self, line: &str) {
        let Self { seconds, micros, .. } = *self;
        let _ = writeln!(self.text, "[{seconds:>SECONDS_DIGITS$}.{micros:06}] {line}");
    }

    /// What a healthy server says, words that come near those of errors included.
    fn chatter(&mut self, random: &mut Random) {
        let (a, b) = (random.below(10_000), random.below(64));
        let line = match random.below(16) {
            0 => format!(
                "usb {}-{}: new high-speed USB device number {a} using xhci_hcd",
                b % 4,
                b % 8
            ),
            1 => format!(
                "EXT4-fs (nvme{b}n1p2): mounted filesystem with ordered data mode. Quota mode: none."
            ),
            2 => format!(
                "audit: type=1400 audit(1700000000.{a:03}:{b}): apparmor=\"ALLOWED\" operation=\"open\" profile=\"/usr/sbin/unit{b}\" pid={a} comm=\"worker\" requested_mask=\"r\""
            ),
            3 => format!("eth{b}: renamed from veth{a:x}"),
            4 => format!("docker0: port {b}(veth{a:x}) entered forwarding state"),
            5 => format!("IPv6: ADDRCONF(NETDEV_CHANGE): veth{a:x}: link becomes ready"),
            6 => format!(
                "TCP: request_sock_TCP: Possible SYN flooding on port {a}. Sending cookies.  Check SNMP counters."
            ),
            7 => format!("systemd[1]: unit-{a}.service: Deactivated successfully."),
            8 => format!(
                "perf: interrupt took too long ({a} > 2500), lowering kernel.perf_event_max_sample_rate to {b}000"
            ),
            9 => format!("nvme nvme{b}: {b}/0/0 default/read/poll queues, {a} entries"),
            10 => format!(
                "worker[{a}]: segfault at 0 ip 000055d0c0de{a:04x} sp 00007ffd0000{a:04x} error 4 in worker[55d0c0d00000+2000]"
            ),
            11 => format!("mce: CPU{b}: Core temperature/speed normal"),
            12 => format!("pcieport 0000:{b:02x}:00.0: PME: Signaling with IRQ {a}"),
            13 => format!("EDAC MC: device mc{b} scrub rate is {a}"),
            14 => format!("hrtimer: interrupt took {a} ns"),
            _ => format!("nfs: server storage{b} not responding, still trying, {a} requests"),
        };
        self.line(&line);
    }

    fn machine_check(&mut self, registers: &Registers, random: &mut Random) {
        let mut text = String::new();
        registers.print(random.below(128), self.seconds, &mut text);
        for line in text.lines() {
            let bare = line.split_once("] ").map_or(line, |(_, bare)| bare);
            self.line(bare);
        }
    }

    /// The kernel's account of a corrected memory error from APEI's GHES.
    fn firmware_record(&mut self, random: &mut Random) {
        let (number, page) = (random.below(1000), random.below(1 << 24));
        let before = format!("{{{number}}}[Hardware Error]: ");
        for line in [
            "Hardware error from APEI Generic Hardware Error Source: 4".to_owned(),
            "It has been corrected by h/w and requires no further action".to_owned(),
            "event severity: corrected".to_owned(),
            " Error 0, type: corrected".to_owned(),
            "  section_type: memory error".to_owned(),
            "  error_status: Storage error in DRAM memory (0x0000000000000400)".to_owned(),
            format!("  physical_address: {:#018x}", page << 12),
            format!(
                "  node:{} card:{} module:0 rank:1 bank:{} device:2 row:{} column:{}",
                page & 1,
                page & 7,
                page & 15,
                page & 0xffff,
                page & 0x3ff
            ),
            "  error_type: 2, single-bit ECC".to_owned(),
        ] {
            self.line(&format!("{before}{line}"));
        }
    }

    fn edac(&mut self, random: &mut Random) {
        let (page, channel) = (random.below(1 << 24), random.below(4));
        self.line(&format!(
            "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#{channel}_DIMM#0 (channel:{channel} slot:0 \
             page:{page:#x} offset:0x0 grain:32 syndrome:0x0 -  err_code:0x0101:0x0090)"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_what_its_contents_say() {
        let (mut first, mut again) = (Vec::new(), Vec::new());
        let contents = write(1, &mut first).unwrap();
        assert_eq!(write(1, &mut again).unwrap(), contents);
        assert_eq!(first, again, "the same at every run");
        assert_eq!(first.len() as u64, contents.bytes);
        let text = String::from_utf8(first).unwrap();
        let found = text.lines().filter(|line| line.contains("Hardware Error")).count() as u64;
        assert_eq!(contents.hardware_error_lines, found);
        assert_eq!(contents.errors, LINES_PER_PIECE / LINES_PER_ERROR);
        assert_eq!(text.matches(": Machine Check").count() as u64, contents.errors / 2);
        assert!(found * 100 < contents.lines, "mostly ordinary lines");
    }

    #[test]
    fn time_runs_on_from_piece_to_piece() {
        let mut log = Vec::new();
        let (_, one) = piece();
        let contents = write(one.bytes * 2 + 1, &mut log).unwrap();
        assert_eq!((contents.bytes, contents.errors), (one.bytes * 3, one.errors * 3));
        let text = String::from_utf8(log).unwrap();
        let seconds: Vec<u64> =
            text.lines().map(|line| line[1..9].trim_start().parse().unwrap()).collect();
        assert_eq!(seconds.len() as u64, one.lines * 3);
        assert!(seconds.is_sorted());
        assert_eq!(seconds.last(), Some(&(SECONDS_PER_PIECE * 3 - 1)));
    }

    #[test]
    fn seconds_are_carried() {
        let mut digits = *b"    9990";
        advance(&mut digits, 3600);
        assert_eq!(&digits, b"   13590");
        advance(&mut digits, 0);
        assert_eq!(&digits, b"   13590");
    }
}
