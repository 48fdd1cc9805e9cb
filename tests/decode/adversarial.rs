//! Time grows with the input and no faster, whatever the input is.
//!
//! Each parser gets the inputs that would hurt it most, and the same eight times as long. What is
//! linear takes eight times as long then, what is quadratic sixty-four times: the limit lies between,
//! far from both. The processor's time counts, not the clock's, and the fastest of several runs: a busy
//! machine changes nothing.

use std::time::Duration;

use mce_decoder::text::{LineDecoder, bgl, edac_sysfs, kernel_log, mcelog};
use mce_decoder::trace::{self, EventFormat};
use mce_decoder::{Decoded, acpi, cper, pstore, whea};
use nix::time::{ClockId, clock_gettime};

/// How much longer the long input is.
const FACTOR: usize = 8;

/// How many times as long it may take.
const LIMIT: u32 = 24;

/// Shorter times are noise.
const FLOOR: Duration = Duration::from_micros(200);

struct Attack {
    name: &'static str,
    /// Elements of the short input.
    elements: usize,
    make: fn(usize) -> Vec<u8>,
    parse: fn(&[u8]),
}

fn lines(mut decoder: impl LineDecoder, text: &[u8]) {
    let mut found = Vec::new();
    let mut offset = 0;
    for line in text.split(|byte| *byte == b'\n') {
        decoder.line(line, offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    decoder.finish(&mut found);
}

fn kernel(text: &[u8]) {
    lines(kernel_log::KernelLog::new(kernel_log::Options::default()), text);
}

fn records(bytes: &[u8]) {
    let _ = Decoded::sequence(bytes, cper::decode_record);
}

/// A record whose only section is of `section_type`, with a body of `body`.
fn record(section_type: [u8; 16], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 200];
    bytes[..4].copy_from_slice(b"CPER");
    bytes[6..10].fill(0xff);
    bytes[10] = 1;
    let length = u32::try_from(200 + body.len()).unwrap();
    bytes[20..24].copy_from_slice(&length.to_le_bytes());
    bytes[128] = 200;
    bytes[132..136].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes[144..160].copy_from_slice(&section_type);
    bytes.extend(body);
    bytes
}

/// Sections that announce as many parts as they can, each of no size, over and over.
fn nested(section_type: [u8; 16], n: usize) -> Vec<u8> {
    record(section_type, &[0xff; 2000]).repeat(n)
}

const IA32: [u8; 16] = [
    0xb0, 0xa0, 0x3e, 0xdc, 0x44, 0xa1, 0x97, 0x47, 0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d,
];
const ARM: [u8; 16] = [
    0x16, 0x3d, 0x9e, 0xe1, 0x11, 0xbc, 0xe4, 0x11, 0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0,
];
const NVIDIA_EVENT: [u8; 16] = [
    0x68, 0xe5, 0x68, 0x90, 0xa0, 0x6c, 0xf0, 0x11, 0xae, 0xaf, 0x15, 0x93, 0x43, 0x59, 0x1e, 0xac,
];

const ATTACKS: &[Attack] = &[
    Attack {
        name: "CPER signatures without records",
        elements: 2000,
        make: |n| b"CPER".repeat(n),
        parse: records,
    },
    Attack {
        name: "CPER descriptors that all name the rest of the record",
        elements: 8000,
        make: |n| {
            let mut bytes = record([7; 16], &[]);
            bytes[10..12].fill(0xff);
            bytes[20..24].fill(0x7f);
            let descriptor = bytes[128..200].to_vec();
            bytes.extend(descriptor.repeat(n));
            bytes
        },
        parse: records,
    },
    Attack { name: "IA32 contexts", elements: 20, make: |n| nested(IA32, n), parse: records },
    Attack { name: "ARM contexts", elements: 20, make: |n| nested(ARM, n), parse: records },
    Attack {
        name: "NVIDIA contexts",
        elements: 20,
        make: |n| nested(NVIDIA_EVENT, n),
        parse: records,
    },
    Attack {
        name: "status block entries of no size",
        elements: 2000,
        make: |n| {
            let mut bytes =
                vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 2, 0, 0, 0];
            bytes.extend([0; 64].repeat(n));
            bytes
        },
        parse: |bytes| {
            let _ = Decoded::sequence(bytes, cper::decode_status_block);
        },
    },
    Attack {
        name: "ERST slots that hold the start of a record",
        elements: 20,
        make: |n| {
            let mut slot = record([7; 16], &[]);
            slot[20..24].fill(0x7f);
            slot.resize(8192, 0);
            slot.repeat(n)
        },
        parse: |bytes| {
            let _ = acpi::decode_erst_image(bytes);
        },
    },
    Attack {
        name: "HEST entries of a type nobody knows",
        elements: 2000,
        make: |n| {
            let mut bytes = vec![0; 40];
            bytes[..4].copy_from_slice(b"HEST");
            bytes[36..40].fill(0x7f);
            bytes.extend([9, 0, 0, 0].repeat(n));
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            bytes
        },
        parse: |bytes| {
            let _ = acpi::decode_table(bytes);
        },
    },
    Attack {
        name: "Windows events in each other",
        elements: 500,
        make: |n| b"WhLg".repeat(n),
        parse: |bytes| {
            let _ = whea::decode_raw(bytes);
        },
    },
    Attack {
        name: "XML events that never end",
        elements: 2000,
        make: |n| b"<Event a='".repeat(n),
        parse: |bytes| {
            let _ = rasctl::whea_xml::decode(bytes);
        },
    },
    Attack {
        name: "a pstore dump of one line",
        elements: 20_000,
        make: |n| [b"Panic#1 Part1\n".to_vec(), b"a: ".repeat(n)].concat(),
        parse: |bytes| {
            let _ = pstore::decode("dmesg-erst-1", bytes);
        },
    },
    Attack {
        name: "firmware records of as many numbers",
        elements: 500,
        make: |n| {
            let line =
                |number| format!("{{{number}}}[Hardware Error]: event severity: corrected\n");
            (0..n).map(line).collect::<String>().into_bytes()
        },
        parse: kernel,
    },
    Attack {
        name: "machine checks of as many processors",
        elements: 500,
        make: |n| {
            let line = |cpu| {
                format!(
                    "mce: [Hardware Error]: CPU {cpu}: Machine Check: 0 Bank 1: 8c00000000000001\n"
                )
            };
            (0..n).map(line).collect::<String>().into_bytes()
        },
        parse: kernel,
    },
    Attack {
        name: "an EDAC line of pairs without end",
        elements: 2000,
        make: |n| {
            let pairs = b"row:1 ".repeat(n);
            [b"EDAC MC0: 1 CE memory error on X (".to_vec(), pairs].concat()
        },
        parse: kernel,
    },
    Attack {
        name: "a kernel log line of prefixes",
        elements: 2000,
        make: |n| b"<6>[ 1.0] Nov 14 22:13:20 host kernel: ".repeat(n),
        parse: kernel,
    },
    Attack {
        name: "mcelog events that never end",
        elements: 500,
        make: |n| b"CPU 0 BANK 1\n".repeat(n),
        parse: |bytes| {
            lines(mcelog::Mcelog::new(kernel_log::Options::default()), bytes);
        },
    },
    Attack {
        name: "counters",
        elements: 500,
        make: |n| b"mc0: csrow0: ch0: 1 Corrected Errors\n".repeat(n),
        parse: |bytes| lines(edac_sysfs::EdacTools::default(), bytes),
    },
    Attack {
        name: "Blue Gene lines of blanks",
        elements: 500,
        make: |n| b"- 1131019038 2005.11.03 RAS KERNEL INFO CE sym  \n".repeat(n),
        parse: |bytes| lines(bgl::BlueGene::default(), bytes),
    },
    Attack {
        name: "a trace line of colons",
        elements: 500,
        make: |n| b"mc_event: : ".repeat(n),
        parse: |bytes| lines(trace::text::TraceText::default(), bytes),
    },
    Attack {
        name: "a trace line of pairs",
        elements: 500,
        make: |n| [b"cxl_dram: ".to_vec(), b"a=b=".repeat(n)].concat(),
        parse: |bytes| lines(trace::text::TraceText::default(), bytes),
    },
    Attack {
        name: "a print format of tables",
        elements: 500,
        make: |n| {
            let head = "name: cxl_dram\nID: 1\n\tfield:u8 log;\toffset:0;\tsize:1;\tsigned:0;\n\nprint fmt: ";
            [head.as_bytes().to_vec(), b"__print_symbolic(REC->log, { 1, \"a\" }, ".repeat(n)]
                .concat()
        },
        parse: |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(format) = EventFormat::parse(&text) {
                let _ = trace::decode(&format, &[1; 64]);
            }
        },
    },
];

fn fastest(attack: &Attack, input: &[u8]) -> Duration {
    let run = |_| {
        let start = processor_time();
        (attack.parse)(input);
        processor_time() - start
    };
    (0..3).map(run).min().unwrap_or_default()
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[test]
fn time_grows_with_the_input_and_no_faster() {
    for attack in ATTACKS {
        let (short, long) =
            ((attack.make)(attack.elements), (attack.make)(FACTOR * attack.elements));
        let (quick, slow) = (fastest(attack, &short), fastest(attack, &long));
        println!("{}: {quick:?}, {FACTOR} times as long: {slow:?}", attack.name);
        assert!(
            slow <= LIMIT * quick.max(FLOOR),
            "{}: {} bytes take {quick:?}, {} bytes {slow:?}",
            attack.name,
            short.len(),
            long.len(),
        );
    }
}
