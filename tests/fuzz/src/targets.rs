//! What each parser promises, on any bytes: it comes to an end, it does not panic, what it found can
//! be rendered, and every problem it names lies within the input.

use mce_decoder::text::kernel_log::{self, KernelLog};
use mce_decoder::text::mcelog::Mcelog;
use mce_decoder::text::{LineDecoder, bgl, edac_sysfs};
use mce_decoder::trace::{self, EventFormat};
use mce_decoder::{Decoded, acpi, cper, mca, pstore, whea};
use ras_core::{CpuVendor, ErrorRecord, McaRegisters};
use rasctl::input::Input;
use rasctl::read::{Damage, Found, Options, Sink};

use crate::{migration, qmp, start, store, virtio};

/// Feeds one input to one parser.
pub(crate) type Target = fn(&[u8]);

/// One line a parser. `cargo xtask fuzz` reads the names from here.
const TARGETS: &[(&str, Target)] = &[
    ("cper_record", |bytes| decoded(bytes, &Decoded::sequence(bytes, cper::decode_record))),
    ("status_block", |bytes| decoded(bytes, &Decoded::sequence(bytes, cper::decode_status_block))),
    ("acpi_table", |bytes| decoded(bytes, &acpi::decode_table(bytes))),
    ("bert_region", |bytes| decoded(bytes, &acpi::decode_bert_region(bytes))),
    ("erst_image", |bytes| decoded(bytes, &acpi::decode_erst_image(bytes))),
    ("pstore", pstore_file),
    ("whea_raw", |bytes| decoded(bytes, &whea::decode_raw(bytes))),
    ("whea_xml", |bytes| decoded(bytes, &rasctl::whea_xml::decode(bytes))),
    ("mca", mca),
    ("trace_format", trace_format),
    ("trace_payload", trace_payload),
    ("trace_text", |bytes| lines(bytes, &mut trace::text::TraceText::default())),
    ("kernel_log", |bytes| lines(bytes, &mut KernelLog::new(kernel_log::Options::default()))),
    ("mcelog", |bytes| lines(bytes, &mut Mcelog::new(kernel_log::Options::default()))),
    ("edac_text", |bytes| lines(bytes, &mut edac_sysfs::EdacTools::default())),
    ("blue_gene", |bytes| lines(bytes, &mut bgl::BlueGene::default())),
    ("capture", capture),
    ("any_file", any_file),
    ("exclusion_list", store::exclusion_list),
    ("exclusion_outcome", store::exclusion_outcome),
    ("store_image", store::store_image),
    ("store_part", store::store_part),
    ("fmpm_record", store::fmpm_record),
    ("virtio_mem", virtio::virtio_mem),
    ("serial_line", virtio::serial_line),
    ("qmp_requests", qmp::requests),
    ("qmp_answers", qmp::answers),
    ("vmm_config", start::config),
    ("kernel_image", start::kernel_image),
    ("migration", migration::stream),
    ("migrated_state", migration::state),
];

/// The target called `name`.
pub(crate) fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// All names, for a message.
pub(crate) fn names() -> String {
    TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

/// Renders a record: the promise holds for what people get to see, too.
fn record(record: &ErrorRecord) {
    let mut json = Vec::new();
    rasctl::json::record(record, &mut json);
    let parsed: serde_json::Value = serde_json::from_slice(&json).expect("records are valid JSON");
    assert!(parsed["summary"].is_string());
    assert!(record.count >= 1);
    if let Some(address) = record.address {
        assert!(address.lsb < 64);
        let _ = address.pages();
    }
}

fn decoded(bytes: &[u8], decoded: &Decoded) {
    assert!(decoded.consumed <= bytes.len());
    for problem in &decoded.problems {
        assert!(problem.offset <= bytes.len() as u64, "{problem:?}");
    }
    decoded.records.iter().for_each(record);
}

/// The same bytes under each kind of name.
fn pstore_file(bytes: &[u8]) {
    for name in ["mce-erst-1", "dmesg-erst-1", "dmesg-erst-1.enc.z"] {
        decoded(bytes, &pstore::decode(name, bytes));
    }
}

fn lines(bytes: &[u8], decoder: &mut dyn LineDecoder) {
    let mut found = Vec::new();
    let mut offset = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        decoder.line(line, offset, &mut found);
        offset += line.len() as u64 + 1;
    }
    decoder.finish(&mut found);
    for found in &found {
        assert!(found.offset <= bytes.len() as u64);
        record(&found.record);
    }
}

/// Registers, taken one after the other from the bytes.
fn mca(bytes: &[u8]) {
    let mut words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mut next = || words.next().unwrap_or(0);
    let [vendor, bank, cs, _, a, b, c, d] = next().to_le_bytes();
    let vendors = [CpuVendor::Intel, CpuVendor::Amd, CpuVendor::Hygon, CpuVendor::Zhaoxin];
    let registers = McaRegisters {
        vendor: vendors.get(usize::from(vendor)).copied().unwrap_or(CpuVendor::Unknown(vendor)),
        bank,
        cs,
        cpuid: u32::from_le_bytes([a, b, c, d]),
        status: next(),
        misc: next(),
        ipid: next(),
        addr: next(),
        synd: next(),
        mcg_status: next(),
        mcg_cap: next(),
        config: next(),
        destat: next(),
        deaddr: next(),
        synd1: next(),
        synd2: next(),
        ..McaRegisters::default()
    };
    record(&mca::decode(&registers, mca::Context::default()));
}

fn trace_format(bytes: &[u8]) {
    if let Ok(format) = EventFormat::parse(&String::from_utf8_lossy(bytes)) {
        for payload in [&[0xff; 256][..], &[0; 256], &[]] {
            if let Ok(found) = trace::decode(&format, payload) {
                record(&found);
            }
        }
    }
}

/// A format text, the words `payload:` and a payload, as in the golden files but for the hexadecimal.
fn trace_payload(bytes: &[u8]) {
    const MARK: &[u8] = b"payload:\n";
    let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) else { return };
    let format = EventFormat::parse(&String::from_utf8_lossy(&bytes[..at]));
    if let Ok(format) = format
        && let Ok(found) = trace::decode(&format, &bytes[at + MARK.len()..])
    {
        record(&found);
    }
}

/// Whatever `rasctl decode` makes of it: detection, decompression, text that holds bytes.
fn any_file(bytes: &[u8]) {
    struct Checked;
    impl Sink for Checked {
        fn record(&mut self, found: Found) -> std::io::Result<()> {
            record(&found.record);
            Ok(())
        }

        fn damage(&mut self, _damage: Damage) -> std::io::Result<()> {
            Ok(())
        }
    }
    let input = Input::new(Box::new(std::io::Cursor::new(bytes.to_vec())));
    let Ok(input) = input else { return };
    let _ = rasctl::read::stream("input", input, &Options::default(), &mut Checked);
}

fn capture(bytes: &[u8]) {
    let entries = rasd_api::capture::Reader::new(bytes).count();
    assert!(entries <= bytes.len());
}
