//! `rasctl decode` and what people give it: files, pipes, archives, directories, and things that are
//! none of what they should be.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Two reports of one error, one of another, and garbage.
pub(super) const MIXED: &str = concat!(
    r#"{"time_ns":1700000000000000000,"mce":{"vendor":"intel","cpuid":"0x606a6","bank":13,"status":"0x8c00004000010091","addr":"0x12345000","misc":"0x8c","cpu":3}}"#,
    "\n",
    r#"{"time_ns":1700000001000000000,"mce":{"vendor":"intel","cpuid":"0x606a6","bank":255,"status":"0x9c0000000000009f","addr":"0x12345000"}}"#,
    "\n",
    "garbage\n",
    r#"{"time_ns":1700000002000000000,"mce":{"vendor":"intel","cpuid":"0x606a6","bank":7,"status":"0xbd000000000000c0","addr":"0x777000","misc":"0x8c","mcg_status":"0x5"}}"#,
    "\n",
);

/// What a run of `rasctl` gave.
#[derive(Debug)]
pub(super) struct Printed {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Printed {
    /// The records and damages of JSON output: one object a line.
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn records(&self) -> usize {
        self.lines().iter().filter(|line| line.get("source").is_some()).count()
    }
}

/// Runs the real program.
pub(super) fn rasctl(arguments: &[&str], input: &[u8]) -> Printed {
    let mut child = Command::new(ras_lab::artifacts::program("rasctl").unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may not read all of it, and has to be read from meanwhile.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Printed {
        code: output.status.code().expect("no signal"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory of inputs.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The bytes of a golden CPER record.
fn record() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/cper/memory_ce.in");
    let text = fs::read_to_string(path).unwrap();
    let digits = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let digits: String = digits.filter_map(|line| line.split('#').next()).collect();
    rasd_api::capture::line::decode_hex(&digits).unwrap()
}

fn json(arguments: &[&str], input: &[u8]) -> Printed {
    rasctl(&[&["decode", "--json"], arguments].concat(), input)
}

#[test]
fn a_person_learns_what_happened_what_it_means_and_what_to_do() {
    let printed = rasctl(&["decode", "-"], &record());
    assert_eq!((printed.code, printed.err.as_str()), (0, ""), "{printed:?}");
    for part in ["corrected", "meaning", "no data was lost", "advice", "row 98305", "-, byte 0"] {
        assert!(printed.out.contains(part), "{part}: {}", printed.out);
    }
    assert!(!printed.out.contains('\x1b'), "no colours but on a terminal");
}

#[test]
fn one_error_is_one_record_unless_kept_apart() {
    let printed = json(&["-"], MIXED.as_bytes());
    assert_eq!(printed.code, 1, "one line is garbage");
    let lines = printed.lines();
    assert_eq!((lines.len(), printed.records()), (3, 2), "{}", printed.out);
    assert_eq!(lines[0]["witnesses"][0]["raw"]["mca"]["bank"], 255);
    assert_eq!(lines[0]["witnesses"][0]["details"]["found_in"]["line"], 2);
    let damage = &lines[1];
    assert_eq!((&damage["line"], &damage["problem"]["kind"]), (&3.into(), &"malformed".into()));
    assert_eq!((&lines[2]["line"], &lines[2]["severity"]), (&4.into(), &"srao".into()));

    let apart = json(&["--no-join", "-"], MIXED.as_bytes());
    assert_eq!((apart.code, apart.records()), (1, 3));
}

#[test]
fn several_files_come_in_their_order_and_a_missing_one_stops_none() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.write("a", &record()), scratch.write("b", MIXED.as_bytes()));
    let missing = scratch.path("missing").display().to_string();
    let printed = json(&[&b, &missing, &a], b"");
    assert_eq!(printed.code, 2);
    assert!(printed.err.contains("missing: No such file"), "{}", printed.err);
    let files: Vec<Value> = printed.lines().iter().map(|line| line["file"].clone()).collect();
    assert_eq!(files, [b.as_str(), &b, &b, &a]);
}

#[test]
fn a_directory_is_walked_and_what_is_unknown_in_it_is_passed_over() {
    let scratch = Scratch::new();
    scratch.write("dir/2/record.bin", &record());
    scratch.write("dir/1.jsonl", MIXED.as_bytes());
    scratch.write("dir/README", b"These are not the errors you are looking for.\n");
    std::os::unix::fs::symlink(scratch.path("dir"), scratch.path("dir/loop")).unwrap();
    let dir = scratch.path("dir").display().to_string();
    let printed = json(&[&dir], b"");
    assert_eq!((printed.code, printed.records()), (1, 3), "{printed:?}");
    assert!(printed.err.contains("1 of 3 files are of no known format"), "{}", printed.err);

    fs::create_dir(scratch.path("empty")).unwrap();
    let printed = json(&[&scratch.path("empty").display().to_string()], b"");
    assert_eq!((printed.code, printed.out.as_str()), (0, ""));
    assert!(printed.err.contains("nothing is in it"), "{}", printed.err);

    scratch.write("useless/README", b"Nor are these.\n");
    let printed = json(&[&scratch.path("useless").display().to_string()], b"");
    assert_eq!(printed.code, 1);
    assert!(printed.out.contains("none of its 1 files is of a known format"), "{}", printed.out);
}

#[test]
fn nothing_is_no_error() {
    let scratch = Scratch::new();
    for file in [scratch.write("empty", b"").as_str(), "/dev/null", "-"] {
        let printed = json(&[file], b"");
        assert_eq!((printed.code, printed.out.as_str()), (0, ""), "{file}");
        assert!(printed.err.contains("is empty"), "{}", printed.err);
    }
}

#[test]
fn a_wrong_file_is_said_to_be_one() {
    let scratch = Scratch::new();
    let png = scratch.write("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0\x08\x06");
    let prose =
        scratch.write("cper.bin", b"Call me Ishmael. Some years ago, never mind how long.\n");
    for file in ["/proc/self/exe", &png, &prose] {
        let printed = json(&[file], b"");
        assert_eq!((printed.code, printed.records()), (1, 0), "{printed:?}");
        assert_eq!(printed.lines()[0]["problem"]["kind"], "unknown");
    }
    let printed = json(&["--format", "cper", &prose], b"");
    assert_eq!((printed.code, printed.records()), (1, 0), "{printed:?}");
    let printed = json(&["--format", "prose", &prose], b"");
    assert!(printed.code == 2 && printed.err.contains("rasdaemon-db"), "{}", printed.err);
}

/// The same bytes, packed by everybody's own program.
#[test]
fn archives_are_unpacked_on_the_way() {
    let scratch = Scratch::new();
    let plain = scratch.write("plain", &record().repeat(500));
    let expected = json(&["-"], &fs::read(&plain).unwrap());
    assert_eq!((expected.code, expected.records()), (0, 500));
    let mut tried = 0;
    for packer in ["gzip", "xz", "zstd", "bzip2"] {
        let Ok(packed) = Command::new(packer).arg("-c").arg(&plain).output() else {
            println!("skipped: no {packer} here");
            continue;
        };
        tried += 1;
        let packed = packed.stdout;
        assert!(packed.len() < 20_000, "{packer}");
        let printed = json(&["-"], &packed);
        assert_eq!((printed.code, &printed.out), (0, &expected.out), "{packer}");
        // Two archives in one, as rotated logs are put together.
        let printed = json(&["-"], &packed.repeat(2));
        assert_eq!((printed.code, printed.records()), (0, 1000), "{packer}");

        let cut = &packed[..packed.len() * 2 / 3];
        let printed = json(&["-"], cut);
        assert_eq!(printed.code, 1, "{packer}");
        let last = printed.lines().pop().unwrap();
        assert_eq!(last["problem"]["kind"], "truncated", "{packer}: {last}");
        let detail = last["problem"]["detail"].as_str().unwrap();
        assert!(detail.contains(packer), "{detail}");
        if packer == "gzip" {
            // The others work in blocks, of which so short an archive has one.
            assert!(printed.records() > 10, "what came before the cut is decoded");
        }
        let mut broken = packed.clone();
        broken[packed.len() / 2] ^= 0x55;
        assert_eq!(json(&["-"], &broken).code, 1, "{packer}");
    }
    assert!(tried > 0, "no packer at all was found");
}

#[test]
fn bytes_may_be_written_as_text() {
    let bytes = record();
    let expected = json(&["-"], &bytes).out;
    let plain: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(json(&["-"], plain.as_bytes()).out, expected);
    let spaced: String = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02X} ")).collect::<String>() + "\n")
        .collect();
    assert_eq!(json(&["--format", "hex", "-"], spaced.as_bytes()).out, expected);
    for dump in [["xxd", "-"], ["hexdump", "-C"], ["base64", "-"]] {
        let scratch = Scratch::new();
        let file = scratch.write("record", &bytes);
        let [program, option] = dump;
        let mut command = Command::new(program);
        if option != "-" {
            command.arg(option);
        }
        let Ok(output) = command.arg(&file).output() else {
            println!("skipped: no {program} here");
            continue;
        };
        assert_eq!(json(&["-"], &output.stdout).out, expected, "{program}");
    }
}

#[test]
fn a_line_without_end_is_damage_and_no_more() {
    let mut input = MIXED.as_bytes().to_vec();
    input.extend(vec![b'x'; 8 << 20]);
    input.extend(b"\n");
    input.extend(MIXED.as_bytes());
    let printed = json(&["--no-join", "-"], &input);
    assert_eq!((printed.code, printed.records()), (1, 6));
    assert!(printed.lines().iter().any(|line| line["problem"]["kind"] == "limit"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let scratch = Scratch::new();
    let file = scratch.write("many", &record().repeat(20_000));
    let program = ras_lab::artifacts::program("rasctl").unwrap();
    for options in ["", "--json"] {
        let script = format!("\"$0\" decode {options} \"$1\" | head -n 1; exit ${{PIPESTATUS[0]}}");
        let mut shell = Command::new("bash");
        let done = shell.args(["-c", &script]).arg(&program).arg(&file).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    }
}

#[test]
fn every_format_is_named_in_the_help() {
    let help = rasctl(&["decode", "--help"], b"").out;
    let formats = rasctl(&["formats", "--json"], b"");
    let names: Vec<Value> = formats.lines().iter().map(|line| line["name"].clone()).collect();
    assert!(names.len() >= 7);
    for name in names.iter().filter_map(Value::as_str) {
        assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
    }
    assert!(help.contains("Exit codes"));
}

#[test]
fn what_is_built_from_a_description_is_decoded() {
    for (kind, sources) in [
        ("memory", ["cper"]),
        ("memory2", ["cper"]),
        ("pcie", ["cper"]),
        ("ia32-x64", ["cper"]),
        ("firmware", ["cper"]),
        ("cxl-dram", ["cper"]),
        ("section", ["apei_status_block"]),
        ("trace", ["mc_event"]),
        ("mce", ["kernel_log_mce"]),
        ("mce-amd", ["kernel_log_mce"]),
        ("edac", ["kernel_log_edac"]),
        ("memory-failure", ["memory_failure"]),
    ] {
        let description = rasctl(&["inject", "build", "--example", kind], b"");
        assert_eq!(description.code, 0, "{kind}: {}", description.err);
        let scratch = Scratch::new();
        let file = scratch.path("built").display().to_string();
        let built = rasctl(&["inject", "build", "--out", &file], description.out.as_bytes());
        assert_eq!((built.code, built.out.as_str()), (0, ""), "{kind}: {}", built.err);
        let printed = json(&[&file], b"");
        let found: Vec<Value> = printed.lines().iter().map(|line| line["source"].clone()).collect();
        assert_eq!(found, sources, "{kind}: {printed:?}");
        let digits = rasctl(&["inject", "build", "--hex"], description.out.as_bytes());
        if !description.out.contains("\"kernel-log\"") && kind != "trace" {
            assert_eq!(json(&["-"], digits.out.as_bytes()).records(), 1, "{kind}");
        }
    }
    let wrong = rasctl(&["inject", "build"], b"form = \"cper\"\n[[error]]\nkind = \"rumour\"\n");
    assert!(wrong.code == 1 && wrong.err.contains("rumour"), "{wrong:?}");
}

#[test]
fn shells_and_readers_of_manuals_are_served() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = rasctl(&["completions", shell], b"");
        assert!(printed.code == 0 && printed.out.contains("no-join"), "{shell}");
    }
    let page = rasctl(&["man", "decode"], b"");
    assert!(page.code == 0 && page.out.contains("rasctl\\-decode"), "{}", page.out);
    assert!(page.out.contains("Exit codes"), "{}", page.out);
    assert_eq!(rasctl(&["man", "nonsense"], b"").code, 1);
}

#[test]
fn the_processor_can_be_told_where_an_input_does_not_name_it() {
    let line = r#"{"bank":7,"status":"0x8c00004000010091","addr":"0x12345000","misc":"0x86"}"#;
    let unknown = json(&["-"], line.as_bytes());
    assert_eq!((unknown.code, &unknown.lines()[0]["raw"]["mca"]["vendor"]), (1, &"unknown".into()));
    let told = json(&["--cpu", "6:0x55:4", "-"], line.as_bytes());
    let record = &told.lines()[0];
    assert_eq!((told.code, &record["raw"]["mca"]["cpuid"]), (0, &"0x50654".into()), "{record}");
    assert_eq!(record["details"]["generation"], "Skylake server");
    assert_eq!(json(&["--cpu", "6:x", "-"], line.as_bytes()).code, 2);
}

/// One error as a kernel tells it: the bank, EDAC's reading of it, and what became of the page.
#[test]
fn a_kernel_log_s_reports_of_one_error_are_joined_and_the_label_is_taken_over() {
    let scratch = Scratch::new();
    let mut log = String::new();
    for kind in ["mce", "edac"] {
        let description = rasctl(&["inject", "build", "--example", kind], b"").out;
        log += &rasctl(&["inject", "build"], description.as_bytes()).out;
    }
    let file = scratch.write("dmesg", log.as_bytes());
    let printed = json(&[&file], b"");
    assert_eq!((printed.code, printed.records()), (0, 1), "{printed:?}");
    let record = &printed.lines()[0];
    assert_eq!(record["source"], "kernel_log_mce");
    assert_eq!(record["witnesses"][0]["source"], "kernel_log_edac");
    assert_eq!(record["location"]["fru"], "CPU_SrcID#0_MC#0_Chan#1_DIMM#0");
    assert_eq!(record["details"]["location_from"]["fru"], "kernel_log_edac");
    assert_eq!(json(&["--no-join", &file], b"").records(), 2);
}

#[test]
fn a_long_log_is_searched_and_gives_what_a_short_one_does() {
    let description = rasctl(&["inject", "build", "--example", "mce"], b"").out;
    let error = rasctl(&["inject", "build"], description.as_bytes()).out;
    let noise = "[   12.345678] usb 1-1: new high-speed USB device number 2\n".repeat(100_000);
    let log = format!("{noise}{error}{noise}{noise}{error}{noise}");
    let scratch = Scratch::new();
    let file = scratch.write("long", log.as_bytes());
    let printed = json(&[&file], b"");
    assert_eq!((printed.code, printed.records()), (0, 2), "{printed:?}");
    let offsets: Vec<Value> = printed.lines().iter().map(|line| line["offset"].clone()).collect();
    assert_eq!(offsets, [noise.len(), 3 * noise.len() + error.len()]);
    assert_eq!(json(&["-"], log.as_bytes()).records(), 2);
}

#[test]
fn edac_s_tree_is_read_as_a_whole() {
    let scratch = Scratch::new();
    for (name, contents) in [
        ("edac/mc/mc0/mc_name", "skx_edac"),
        ("edac/mc/mc0/ce_count", "3"),
        ("edac/mc/mc0/ue_count", "0"),
        ("edac/mc/mc0/dimm0/dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0"),
        ("edac/mc/mc0/dimm0/dimm_ce_count", "3"),
        ("edac/mc/mc0/dimm0/dimm_ue_count", "0"),
    ] {
        scratch.write(name, format!("{contents}\n").as_bytes());
    }
    let printed = json(&[&scratch.path("edac").display().to_string()], b"");
    assert_eq!((printed.code, printed.records()), (0, 1), "{printed:?}");
    let record = &printed.lines()[0];
    assert_eq!((&record["source"], &record["count"]), (&"edac_counter".into(), &3.into()));
    assert_eq!(record["location"]["fru"], "CPU_SrcID#0_MC#0_Chan#0_DIMM#0");
}
