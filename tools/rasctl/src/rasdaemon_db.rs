//! rasdaemon's database: every table it has known, oldest event first.
//!
//! Tables and columns come and go between versions and build options, so each is looked up by name,
//! and a table that nothing here knows becomes records that hold all of its columns.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mce_decoder::mca::{self, Context};
use mce_decoder::trace::aer_event::AerEvent;
use mce_decoder::trace::firmware::{ArmEvent, ExtlogMem, NonStandard};
use mce_decoder::trace::mc_event::McEvent;
use mce_decoder::trace::{cxl, mce_record, memory_failure};
use ras_core::{
    Detail, Details, ErrorClass, ErrorRecord, ErrorSource, Guid, McaRegisters, Pfn, Severity,
    Timestamp, Value,
};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

/// The first bytes of every SQLite database.
pub const MAGIC: &[u8] = b"SQLite format 3\0";

/// Longest value taken, in bytes: SQLite's own limit is a gigabyte, an event's data a few KiB.
const VALUE_MAX: i32 = 1 << 20;

/// A database that can't be opened or read on.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite says why.
    #[error("reading the database")]
    Sqlite(#[from] rusqlite::Error),
    /// It is a database of something else.
    #[error("none of its tables has a 'timestamp': not a database of rasdaemon's")]
    NoTable,
}

/// Hands every event in the database at `path` to `sink`, by time. The number is the event's id in
/// its table. Ends early where `sink` answers false.
///
/// # Errors
/// [`DatabaseError`]; events read before it have been handed out.
pub fn read(
    path: &Path,
    sink: &mut dyn FnMut(u64, ErrorRecord) -> bool,
) -> Result<(), DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX)?;
    let tables = tables(&database)?;
    if tables.is_empty() {
        return Err(DatabaseError::NoTable);
    }
    let mut statements = tables
        .iter()
        .map(|table| {
            database
                .prepare(&format!("SELECT * FROM \"{}\" ORDER BY id", table.replace('"', "\"\"")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut cursors = statements
        .iter_mut()
        .map(|statement| statement.query([]))
        .collect::<Result<Vec<_>, _>>()?;
    let next = |rows: &mut rusqlite::Rows<'_>, table: &str| {
        Ok::<_, rusqlite::Error>(rows.next()?.map(|row| event(table, &Columns { row })))
    };
    let mut heads = Vec::with_capacity(tables.len());
    for (rows, table) in cursors.iter_mut().zip(&tables) {
        heads.push(next(rows, table)?);
    }
    // A merge of a dozen tables, each in the order of its ids, which is that of time.
    loop {
        let oldest = heads
            .iter()
            .enumerate()
            .filter_map(|(index, head)| Some((index, head.as_ref()?.1.time)))
            .min_by_key(|(_, time)| *time);
        let Some((index, _)) = oldest else { return Ok(()) };
        let following = next(&mut cursors[index], &tables[index])?;
        if let Some((id, record)) = std::mem::replace(&mut heads[index], following)
            && !sink(id, record)
        {
            return Ok(());
        }
    }
}

/// The tables that hold events: those with an id and a timestamp.
fn tables(database: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = database.prepare(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND 2 = \
         (SELECT count(*) FROM pragma_table_info(sqlite_master.name) WHERE name IN ('id', 'timestamp')) \
         ORDER BY name",
    )?;
    let names = query.query_map([], |row| row.get(0))?;
    names.collect()
}

/// One row, by the names of its columns.
struct Columns<'a> {
    row: &'a Row<'a>,
}

impl Columns<'_> {
    fn get(&self, name: &str) -> Option<ValueRef<'_>> {
        self.row.get_ref(name).ok()
    }

    /// SQLite's integers are signed; registers are not.
    fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(ValueRef::Integer(value)) => value.cast_unsigned(),
            Some(ValueRef::Text(text)) => number(&String::from_utf8_lossy(text)).unwrap_or(0),
            _ => 0,
        }
    }

    /// The low bits: rasdaemon stores some unsigned fields as negative ones.
    fn word(&self, name: &str) -> u32 {
        let [a, b, c, d, ..] = self.number(name).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    fn byte(&self, name: &str) -> u8 {
        self.number(name).to_le_bytes()[0]
    }

    fn text(&self, name: &str) -> String {
        match self.get(name) {
            Some(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        }
    }

    fn blob(&self, name: &str) -> Vec<u8> {
        match self.get(name) {
            Some(ValueRef::Blob(bytes) | ValueRef::Text(bytes)) => bytes.into(),
            _ => Vec::new(),
        }
    }

    fn guid(&self, name: &str) -> [u8; 16] {
        self.blob(name).try_into().unwrap_or_default()
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// One event: its id and its record.
fn event(table: &str, columns: &Columns<'_>) -> (u64, ErrorRecord) {
    let mut record = match table {
        "mce_record" => mce(columns),
        "mc_event" => mc(columns).into(),
        "aer_event" => aer(columns).into(),
        "extlog_event" => extlog(columns).into(),
        "arm_event" => arm(columns).into(),
        "non_standard_event" => non_standard(columns).into(),
        "memory_failure_event" => failure(columns),
        _ => match CXL.iter().find(|(known, _)| *known == table) {
            Some((_, name)) => cxl::record(name, cxl_details(columns)),
            None => other(table, columns),
        },
    };
    record.time = record.time.or_else(|| timestamp(&columns.text("timestamp")));
    record.details.push(Detail { name: "database_table".into(), value: table.to_owned().into() });
    (columns.number("id"), record)
}

/// The registers decide; what rasdaemon made of them is not repeated.
fn mce(columns: &Columns<'_>) -> ErrorRecord {
    let registers = McaRegisters {
        vendor: mce_record::vendor(columns.byte("cpuvendor")),
        cpuid: columns.word("cpuid"),
        bank: columns.byte("bank"),
        // Stored as 32 bits.
        mcg_cap: columns.word("mcgcap").into(),
        mcg_status: columns.word("mcgstatus").into(),
        status: columns.number("status"),
        addr: columns.number("addr"),
        misc: columns.number("misc"),
        // Of databases made by versions that keep them.
        synd: columns.number("synd"),
        ipid: columns.number("ipid"),
        ip: columns.number("ip"),
        cs: columns.byte("cs"),
        tsc: columns.number("tsc"),
        ppin: columns.number("ppin"),
        apic_id: columns.word("apicid"),
        microcode: columns.word("microcode"),
        ..McaRegisters::default()
    };
    let walltime = columns.number("walltime");
    let context = Context {
        time: (walltime != 0).then(|| Timestamp::from_secs(walltime)),
        cpu: Some(columns.word("cpu")),
        socket: Some(columns.word("socketid")),
    };
    mca::decode(&registers, context)
}

fn mc(columns: &Columns<'_>) -> McEvent {
    let error_type = match columns.text("err_type").as_str() {
        "Corrected" => 0,
        "Uncorrected" => 1,
        "Deferred" => 2,
        "Fatal" => 3,
        "Info" => 4,
        _ => u64::MAX,
    };
    let layers = ["top_layer", "middle_layer", "lower_layer"];
    McEvent {
        error_type,
        count: columns.word("err_count"),
        message: columns.text("err_msg"),
        label: columns.text("label"),
        mc_index: u16::try_from(columns.number("mc")).unwrap_or(u16::MAX),
        layers: layers.map(|name| columns.number(name).cast_signed()),
        address: columns.number("address"),
        grain_bits: McEvent::grain_bits_of(columns.number("grain")),
        syndrome: columns.number("syndrome"),
        driver_detail: columns.text("driver_detail"),
    }
}

fn aer(columns: &Columns<'_>) -> AerEvent {
    let kind = columns.text("err_type");
    AerEvent {
        device: columns.text("dev_name"),
        status: None,
        status_text: columns.text("err_msg"),
        severity: match kind.as_str() {
            "Corrected" => 2,
            "Fatal" => 1,
            _ if kind.starts_with("Uncorrected") => 0,
            _ => u8::MAX,
        },
        tlp_header: None,
    }
}

fn extlog(columns: &Columns<'_>) -> ExtlogMem {
    ExtlogMem {
        err_seq: columns.number("error_count"),
        etype: columns.byte("etype"),
        sev: columns.word("severity"),
        pa: columns.number("address"),
        // Not stored: a page is assumed.
        pa_mask_lsb: u8::MAX,
        fru_id: columns.guid("fru_id"),
        fru_text: columns.text("fru_text"),
        data: columns.blob("cper_data"),
    }
}

fn arm(columns: &Columns<'_>) -> ArmEvent {
    ArmEvent {
        sev: None,
        mpidr: columns.number("mpidr"),
        midr: columns.number("midr"),
        running_state: columns.word("running_state"),
        psci_state: columns.word("psci_state"),
        affinity: columns.byte("affinity"),
        pei: columns.blob("err_info"),
        ctx: columns.blob("context_info"),
        oem: columns.blob("vendor_info"),
        cpu: None,
    }
}

fn non_standard(columns: &Columns<'_>) -> NonStandard {
    NonStandard {
        section_type: Guid(columns.guid("sec_type")),
        fru_id: columns.guid("fru_id"),
        fru_text: columns.text("fru_text"),
        sev: match columns.text("severity").as_str() {
            "Informational" => 0,
            "Corrected" => 1,
            "Recoverable" => 2,
            "Fatal" | "Panic" => 3,
            _ => u64::MAX,
        },
        body: columns.blob("error"),
    }
}

fn failure(columns: &Columns<'_>) -> ErrorRecord {
    memory_failure::record(
        memory_failure::MemoryFailure {
            pfn: Pfn(columns.number("pfn")),
            page_type: columns.text("page_type"),
            result: columns.text("action_result"),
        },
        0,
    )
}

/// Tables of CXL events, and the kernel's names of those.
const CXL: &[(&str, &str)] = &[
    ("cxl_poison_event", "cxl_poison"),
    ("cxl_aer_ue_event", "cxl_aer_uncorrectable_error"),
    ("cxl_aer_ce_event", "cxl_aer_correctable_error"),
    ("cxl_overflow_event", "cxl_overflow"),
    ("cxl_generic_event", "cxl_generic_event"),
    ("cxl_general_media_event", "cxl_general_media"),
    ("cxl_dram_event", "cxl_dram"),
    ("cxl_memory_module_event", "cxl_memory_module"),
    ("cxl_memory_sparing_event", "cxl_memory_sparing"),
];

/// The columns as the kernel's event names and types them.
fn cxl_details(columns: &Columns<'_>) -> Vec<Detail> {
    /// CXL Specification, "General Media Event Record", memory event descriptor.
    const DESCRIPTOR: &[(u32, &str)] =
        &[(0, "UNCORRECTABLE_EVENT"), (1, "THRESHOLD_EVENT"), (2, "POISON_LIST_OVERFLOW")];
    let mut details = columns_of(columns);
    for detail in &mut details {
        let name = detail.name.strip_prefix("hdr_").unwrap_or(&detail.name).to_owned();
        let name = match name.as_str() {
            "log_type" => "log",
            "ts" => "timestamp_text",
            "error_status" => "status",
            other => other,
        };
        detail.value = match (&detail.value, name) {
            (Value::Number(bits), "descriptor") => Value::flags(*bits, DESCRIPTOR),
            (
                Value::Number(bits),
                "status" | "first_error" | "flags" | "dpa_flags" | "health_status",
            ) => Value::flags(*bits, &[]),
            (Value::Number(number), "hpa" | "dpa" | "dpa_length" | "serial" | "nibble_mask") => {
                Value::Hex(*number)
            }
            (value, _) => value.clone(),
        };
        detail.name = name.to_owned().into();
    }
    details
}

/// A table nobody here knows: nothing is lost, nothing is claimed.
fn other(table: &str, columns: &Columns<'_>) -> ErrorRecord {
    ErrorRecord {
        class: ErrorClass::Unknown,
        severity: Severity::Unknown,
        severity_reason: "the table is not known here".into(),
        summary: format!("event in rasdaemon's table {table}"),
        details: columns_of(columns),
        ..ErrorRecord::new(ErrorSource::Rasdaemon)
    }
}

fn columns_of(columns: &Columns<'_>) -> Vec<Detail> {
    let statement: &rusqlite::Statement<'_> = columns.row.as_ref();
    let mut details = Vec::new();
    for name in statement.column_names() {
        if matches!(name, "id" | "timestamp") {
            continue;
        }
        let value = match columns.get(name) {
            Some(ValueRef::Integer(number)) => u64::try_from(number)
                .map_or_else(|_| Value::Hex(number.cast_unsigned()), Value::Number),
            Some(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned().into(),
            Some(ValueRef::Blob(bytes)) => Value::Bytes(bytes.into()),
            Some(ValueRef::Real(number)) => number.to_string().into(),
            _ => continue,
        };
        details.push(Detail { name: Cow::Owned(name.to_owned()), value });
    }
    details.add("database", "rasdaemon");
    details
}

/// `2023-11-14 22:13:20 +0100`, local time and its distance from UTC.
fn timestamp(text: &str) -> Option<Timestamp> {
    let mut parts = text.split_whitespace();
    let (date, time) = (parts.next()?, parts.next()?);
    let local = humantime::parse_rfc3339(&format!("{date}T{time}Z")).ok()?;
    let local = local.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let offset = parts.next().unwrap_or("+0000");
    let (sign, digits) = offset.split_at_checked(1)?;
    let minutes = match digits.len() {
        4 => digits[..2].parse::<u64>().ok()? * 60 + digits[2..].parse::<u64>().ok()?,
        _ => return None,
    };
    let offset = Duration::from_secs(minutes * 60);
    let utc = match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    };
    utc.map(|utc| Timestamp::from_secs(utc.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ras_core::Raw;

    /// A database with the tables of two versions of rasdaemon, and one of neither.
    fn database(path: &Path) {
        let database = Connection::open(path).unwrap();
        database
            .execute_batch(
                "CREATE TABLE mc_event (id INTEGER PRIMARY KEY, timestamp TEXT, err_count INTEGER, err_type TEXT,
                    err_msg TEXT, label TEXT, mc INTEGER, top_layer INTEGER, middle_layer INTEGER,
                    lower_layer INTEGER, address INTEGER, grain INTEGER, syndrome INTEGER, driver_detail TEXT);
                 CREATE TABLE mce_record (id INTEGER PRIMARY KEY, timestamp TEXT, mcgcap INTEGER, mcgstatus INTEGER,
                    status INTEGER, addr INTEGER, misc INTEGER, ip INTEGER, tsc INTEGER, walltime INTEGER,
                    cpu INTEGER, cpuid INTEGER, apicid INTEGER, socketid INTEGER, cs INTEGER, bank INTEGER,
                    cpuvendor INTEGER, error_msg TEXT);
                 CREATE TABLE memory_failure_event (id INTEGER PRIMARY KEY, timestamp TEXT, pfn TEXT, page_type TEXT,
                    action_result TEXT);
                 CREATE TABLE cxl_dram_event (id INTEGER PRIMARY KEY, timestamp TEXT, memdev TEXT, host TEXT,
                    serial INTEGER, log_type TEXT, hdr_handle INTEGER, dpa INTEGER, descriptor INTEGER,
                    rank INTEGER, row INTEGER, hpa INTEGER);
                 CREATE TABLE moon_event (id INTEGER PRIMARY KEY, timestamp TEXT, phase INTEGER, data BLOB);
                 CREATE TABLE no_events (id INTEGER PRIMARY KEY, value TEXT);",
            )
            .unwrap();
        let status = 0xbd00_0000_0000_00c0_u64.cast_signed();
        database
            .execute(
                "INSERT INTO mce_record VALUES (1, '2023-11-14 23:13:22 +0100', 251661340, 5, ?1, 4096, 140, 0, 0, 0, 3,
                 394918, 6, 1, 0, 13, 0, 'words')",
                [status],
            )
            .unwrap();
        database
            .execute_batch(
                "INSERT INTO mc_event VALUES (1, '2023-11-14 22:13:20 +0000', 2, 'Corrected', 'memory read error',
                    'DIMM_A1', 0, 0, 1, -1, 4096, 5, 0, 'rank:1');
                 INSERT INTO mc_event VALUES (2, '2023-11-14 22:13:24 +0000', 1, 'Uncorrected', '', '', 0, -1, -1,
                    -1, 0, 64, 0, '');
                 INSERT INTO memory_failure_event VALUES (1, '2023-11-14 22:13:23 +0000', '0x1234', 'huge page', 'Failed');
                 INSERT INTO cxl_dram_event VALUES (1, '2023-11-14 22:13:25 +0000', 'mem0', '0000:0d:00.0', -1,
                    'Warning', 1, 4096, 1, 2, 9, 8192);
                 INSERT INTO moon_event VALUES (7, 'yesterday', 3, x'0102');",
            )
            .unwrap();
    }

    fn all(path: &Path) -> Vec<(u64, ErrorRecord)> {
        let mut found = Vec::new();
        read(path, &mut |id, record| {
            found.push((id, record));
            true
        })
        .unwrap();
        found
    }

    #[test]
    fn events_come_by_time_from_all_tables() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ras-mc_event.db");
        database(&path);
        let found = all(&path);
        let order: Vec<_> = found.iter().map(|(id, record)| (*id, record.source)).collect();
        assert_eq!(
            order,
            [
                (7, ErrorSource::Rasdaemon),
                (1, ErrorSource::McEvent),
                (1, ErrorSource::MceRecord),
                (1, ErrorSource::MemoryFailure),
                (2, ErrorSource::McEvent),
                (1, ErrorSource::CxlEvent),
            ]
        );
        let mce = &found[2].1;
        assert_eq!(mce.time, Some(Timestamp::from_secs(1_700_000_002)), "an hour ahead of UTC");
        assert_eq!(mce.severity, Severity::Srao);
        let Raw::Mca(registers) = &mce.raw else { panic!("{mce:?}") };
        assert_eq!((registers.cpuid, registers.bank), (0x606a6, 13));
        let edac = &found[1].1;
        assert_eq!(
            (edac.location.fru.as_deref(), edac.location.dimm.rank),
            (Some("DIMM_A1"), Some(1))
        );
        let cxl = &found[5].1;
        assert_eq!((cxl.severity, cxl.location.dimm.row), (Severity::Srao, Some(9)));
        assert_eq!(cxl.address.map(|at| at.addr.0), Some(8192));
    }

    #[test]
    fn other_databases_and_other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x INTEGER)").unwrap();
        let refused = |path: &Path| read(path, &mut |_, _| true).unwrap_err();
        assert!(matches!(refused(&path), DatabaseError::NoTable));
        std::fs::write(&path, "garbage of no format at all").unwrap();
        assert!(matches!(refused(&path), DatabaseError::Sqlite(_)));
        assert!(matches!(refused(&directory.path().join("absent")), DatabaseError::Sqlite(_)));
    }

    #[test]
    fn a_cut_database_gives_what_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut.db");
        database(&path);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 50, 100, 4096, 8192, whole.len() - 100] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut found = 0;
            let result = read(&path, &mut |_, _| {
                found += 1;
                true
            });
            assert!(result.is_err() || found > 0, "{cut}");
        }
    }

    #[test]
    fn times_know_their_distance_from_utc() {
        let secs = |text| timestamp(text).map(Timestamp::secs);
        assert_eq!(secs("2023-11-14 22:13:20 +0000"), Some(1_700_000_000));
        assert_eq!(secs("2023-11-14 17:13:20 -0500"), Some(1_700_000_000));
        assert_eq!(secs("1969-12-31 23:59:59 +0000"), None);
        for wrong in
            ["", "yesterday", "2023-11-14", "2023-11-14 22:13:20 é", "2023-13-14 22:13:20 +0000"]
        {
            assert_eq!(secs(wrong), None, "{wrong}");
        }
    }
}
