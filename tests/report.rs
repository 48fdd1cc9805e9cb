//! `rasctl analyze` and `rasctl report` over a made-up machine, the report opened in a real browser.

mod browser;
mod data;

use std::path::Path;
use std::process::{Command, Output};

use boon::{Compiler, Schemas};
use serde_json::Value;
use tempfile::TempDir;

use self::browser::Browser;

fn rasctl(arguments: &[&str]) -> Output {
    let program = ras_lab::artifacts::program("rasctl").unwrap();
    Command::new(program).args(arguments).output().unwrap()
}

/// A directory with the machine's log in two files.
fn machine() -> (TempDir, String) {
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("log");
    std::fs::create_dir(&log).unwrap();
    std::fs::write(log.join("capture.jsonl"), data::capture()).unwrap();
    std::fs::write(log.join("trace.txt"), data::trace()).unwrap();
    let log = log.to_str().unwrap().to_owned();
    (scratch, log)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn analyze_finds_what_is_broken() {
    let (_scratch, log) = machine();
    let text = rasctl(&["analyze", &log]);
    let shown = said(&text);
    println!("{shown}");
    assert_eq!(text.status.code(), Some(1));
    assert!(shown.starts_with("Replace module CPU1_DIMM_A1 and 1 more part: "), "{shown}");
    assert!(!shown.contains('\x1b'), "no colours where there is no terminal");

    let json = rasctl(&["analyze", "--json", &log]);
    let found: Value = serde_json::from_slice(&json.stdout).unwrap();
    let modes: Vec<(&str, &str)> = found["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (fault["part"].as_str().unwrap(), fault["mode"].as_str().unwrap()))
        .collect();
    for expected in [
        ("module CPU1_DIMM_A1", "row"),
        ("module CPU1_DIMM_B2", "column"),
        ("module CPU2_DIMM_C1", "cell"),
        ("module CPU2_DIMM_D1", "bank"),
        ("PCIe device 0000:3b:00.0", "link"),
        ("processor in socket 0", "cache"),
    ] {
        assert!(modes.contains(&expected), "{expected:?} in {modes:?}");
    }
    assert!(!modes.iter().any(|(part, _)| part.contains("C2")), "one error is no fault");
    assert_eq!(found["advice"][0]["advice"], "replace");
    assert_eq!(found["storms"].as_array().unwrap().len(), 1);
    assert_eq!(found["timeline"]["without_time"]["corrected"], 2);
    assert!(found["retire"].as_array().unwrap().iter().any(|page| page["why"] == "data_lost"));
}

#[test]
fn exit_codes_and_files_are_as_the_help_says() {
    let (scratch, log) = machine();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("empty"), "").unwrap();
    assert_eq!(rasctl(&["analyze", &path("empty")]).status.code(), Some(0));
    assert_eq!(rasctl(&["analyze", &path("nowhere")]).status.code(), Some(2));
    assert_eq!(rasctl(&["analyze", &path("nowhere"), &log]).status.code(), Some(2));

    let report = path("report.html");
    assert_eq!(rasctl(&["report", "-o", &report, &log]).status.code(), Some(1));
    let first = std::fs::read(&report).unwrap();
    let again = rasctl(&["report", "-o", &report, &path("empty")]);
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("--force overwrites it"));
    assert_eq!(std::fs::read(&report).unwrap(), first);
    let forced = rasctl(&["report", "--force", "-o", &report, &path("empty")]);
    assert_eq!(forced.status.code(), Some(0));
    assert_ne!(std::fs::read(&report).unwrap(), first);
    assert_eq!(rasctl(&["report", "-o", "-", &log]).stdout, first);
}

/// The goldens too: many sorts of records, and one file of bytes that are none.
#[test]
fn everything_else_makes_a_page_as_well() {
    let scratch = tempfile::tempdir().unwrap();
    let (_machine, log) = machine();
    std::fs::write(scratch.path().join("noise"), [0x5a, 0, 0xff, 7].repeat(4096)).unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = [scratch.path().to_str().unwrap(), goldens.to_str().unwrap(), &log];
    let out = scratch.path().join("all.html");
    let made = rasctl(&[&["report", "-o", out.to_str().unwrap()], &files[..]].concat());
    assert_eq!(made.status.code(), Some(1), "{}", said(&made));
    let Some(browser) = Browser::or_say_why() else { return };
    let dom = browser.dom(&out);
    assert!(dom.text.contains("data-script=\"ran\""));
    assert!(dom.text.contains("of a known format"));
}

#[test]
fn a_browser_shows_the_report_and_runs_nothing_from_it() {
    let (scratch, log) = machine();
    let out = scratch.path().join("report.html");
    let made = rasctl(&["report", "-o", out.to_str().unwrap(), &log]);
    assert_eq!(made.status.code(), Some(1), "{}", said(&made));

    let Some(browser) = Browser::or_say_why() else { return };
    let dom = browser.dom(&out);
    let count = |what: &str| dom.text.matches(what).count();

    // What a person sees.
    assert!(dom.text.contains("Replace module CPU1_DIMM_A1"));
    assert!(count("<rect class=\"cell ") > 100, "{} cells in maps", count("<rect class=\"cell "));
    assert!(dom.text.contains("bank group") || dom.text.contains("Banks and rows"));
    assert!(count("class=\"lost\"") >= 2, "lost data is marked in both maps of its module");
    assert!(count("<g class=\"step\"") > 20 && count("<g class=\"storm\"") == 1);
    assert!(dom.text.contains("CPU 17, bank 3: 4 errors"));

    // The page's own script ran: its hash is right, and heads of tables became buttons.
    assert!(dom.text.contains("data-script=\"ran\""), "SCRIPT_SHA256 is not that of script.js");
    assert!(count("<th><button type=\"button\">") > 5);

    // And nothing else did, or asked for anything.
    assert_eq!(count("<script"), 1);
    assert!(dom.text.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(dom.text.contains("&lt;b onclick=alert(1)&gt;") && count("<b onclick") == 0);
    assert_eq!(dom.complaints, Vec::<String>::new());
    assert_eq!(dom.asked_for, Vec::<String>::new());
}

/// So that the test above can fail.
#[test]
fn a_page_that_asks_and_complains_is_noticed() {
    let Some(browser) = Browser::or_say_why() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let page = scratch.path().join("asks.html");
    let script = "console.error('a complaint')";
    let image = "<img src=\"http://report.invalid/pixel.png\">";
    std::fs::write(&page, format!("<!DOCTYPE html><p>x</p>{image}<script>{script}</script>"))
        .unwrap();
    let dom = browser.dom(&page);
    assert!(dom.asked_for.iter().any(|url| url.contains("report.invalid")), "{:?}", dom.asked_for);
    assert!(dom.complaints.iter().any(|line| line.contains("a complaint")), "{:?}", dom.complaints);
}

#[test]
fn it_is_drawn_light_and_dark_wide_and_narrow() {
    let Some(browser) = Browser::or_say_why() else { return };
    let (scratch, log) = machine();
    let out = scratch.path().join("report.html");
    rasctl(&["report", "-o", out.to_str().unwrap(), &log]);
    let mut pictures = Vec::new();
    for dark in [false, true] {
        for width in [1280, 420] {
            let picture = browser.picture(&out, width, 1600, dark);
            // PNG: the size is in the header.
            assert_eq!(picture.get(1..4), Some(&b"PNG"[..]));
            let size = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
            assert_eq!((size(16), size(20)), (width, 1600));
            pictures.push(picture);
        }
    }
    assert_ne!(pictures[0], pictures[2], "dark is another picture");
}

#[test]
fn the_analysis_is_as_the_schema_says() {
    let schema: Value = serde_json::from_str(rasctl::json::SCHEMA).unwrap();
    let id = schema["$id"].as_str().unwrap().to_owned();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource(&id, schema).unwrap();
    let analysis = compiler.compile(&format!("{id}#/$defs/analysis"), &mut schemas).unwrap();

    let (_scratch, log) = machine();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for input in [&log, goldens.to_str().unwrap(), "/dev/null", "/nowhere"] {
        let printed = rasctl(&["analyze", "--json", input]);
        let mut object: Value = serde_json::from_slice(&printed.stdout).unwrap();
        if let Err(error) = schemas.validate(&object, analysis) {
            panic!("{input}: {error:#}\n{object:#}");
        }
        object["verdict"] = Value::Null;
        assert!(schemas.validate(&object, analysis).is_err(), "a schema that takes anything");
    }
}
