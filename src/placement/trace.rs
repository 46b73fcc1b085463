//! Traces: who arrived when, how big, and for how long, one VM a row of CSV, in the order of arrival.

use serde::Deserialize;

use super::resources::Resources;

/// Most rows of a trace: what is held in memory while it is replayed, 32 bytes a row.
pub const ROWS_MAX: usize = 50_000_000;

/// One VM of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vm {
    /// Seconds since the trace began.
    pub arrival_s: u64,
    /// Seconds until it leaves; none: not within the trace.
    pub lifetime_s: Option<u64>,
    /// What it takes; a trace says nothing of disks.
    pub need: Resources,
    /// VMs of one number were asked for together.
    pub request: u64,
}

/// A row, and a column where one is at fault, that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: {detail}")]
    Row { line: u64, detail: String },
    #[error("the trace has no rows: give at least one below its header")]
    Empty,
    #[error(
        "the header is {found:?}: must have the columns arrival_s, lifetime_s, vcpus, memory_mib and request"
    )]
    Header { found: String },
    #[error("the trace has more than {ROWS_MAX} rows: cut it")]
    TooLong,
}

/// A row as it is written; -1 as lifetime: still there at the trace's end.
#[derive(Debug, Deserialize)]
struct Row {
    arrival_s: u64,
    lifetime_s: i64,
    vcpus: u32,
    memory_mib: u32,
    request: u64,
}

const COLUMNS: [&str; 5] = ["arrival_s", "lifetime_s", "vcpus", "memory_mib", "request"];

/// Reads a whole trace.
///
/// # Errors
/// The first row that is no row of numbers, has a zero size or a lifetime below -1, or arrives before the row above it.
pub fn read(text: &[u8]) -> Result<Vec<Vm>, TraceError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let header = reader.headers().map_err(|error| row(&error))?.clone();
    if !COLUMNS.iter().all(|column| header.iter().any(|found| found == *column)) {
        return Err(TraceError::Header { found: header.iter().collect::<Vec<_>>().join(",") });
    }
    let mut trace: Vec<Vm> = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| row(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let fault = |detail: String| TraceError::Row { line, detail };
        if trace.len() == ROWS_MAX {
            return Err(TraceError::TooLong);
        }
        let vm: Row = record.deserialize(Some(&header)).map_err(|error| row(&error))?;
        let lifetime_s = match vm.lifetime_s {
            -1 => None,
            lifetime => {
                Some(u64::try_from(lifetime).map_err(|_negative: std::num::TryFromIntError| {
                    fault(format!(
                        "lifetime_s is {lifetime}: must be 0 or more, or -1 for a VM that stays"
                    ))
                })?)
            }
        };
        if vm.vcpus == 0 || vm.memory_mib == 0 {
            return Err(fault("vcpus and memory_mib must be at least 1".into()));
        }
        if trace.last().is_some_and(|before| before.arrival_s > vm.arrival_s) {
            let detail = format!(
                "arrival_s is {}, before that of the row above it: sort the rows by arrival_s",
                vm.arrival_s
            );
            return Err(fault(detail));
        }
        let need = Resources::new(vm.vcpus, vm.memory_mib, 0);
        trace.push(Vm { arrival_s: vm.arrival_s, lifetime_s, need, request: vm.request });
    }
    if trace.is_empty() { Err(TraceError::Empty) } else { Ok(trace) }
}

fn row(error: &csv::Error) -> TraceError {
    let line = error.position().map_or(1, csv::Position::line);
    let detail = match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => {
            let column = err.field().and_then(|at| COLUMNS.get(usize::try_from(at).ok()?));
            match column {
                Some(column) => format!("{column}: {}: must be a whole number", err.kind()),
                None => format!("{}: must be whole numbers", err.kind()),
            }
        }
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} columns: must have {expected_len}")
        }
        _ => error.to_string(),
    };
    TraceError::Row { line, detail }
}

/// Writes a trace, as `read` reads it.
pub fn write(trace: &[Vm]) -> String {
    let mut text = COLUMNS.join(",") + "\n";
    for vm in trace {
        let lifetime = vm.lifetime_s.map_or_else(|| "-1".to_owned(), |s| s.to_string());
        text += &format!(
            "{},{lifetime},{},{},{}\n",
            vm.arrival_s, vm.need.vcpus, vm.need.memory_mib, vm.request
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "arrival_s,lifetime_s,vcpus,memory_mib,request\n";

    #[test]
    fn what_is_no_trace_is_refused_by_its_line_and_what_would_do() {
        for (rows, says) in [
            ("", "no rows"),
            ("0,1,1,1\n", "line 2: has 4 columns: must have 5"),
            ("0,1,1,1,0\n5,x,1,1,0\n", "line 3: lifetime_s: invalid digit"),
            ("0,,1,1,0\n", "line 2: lifetime_s: "),
            ("0,1,1,-1,0\n", "line 2: memory_mib: "),
            ("0,1,4294967296,1,0\n", "line 2: vcpus: "),
            ("0,1,0,1,0\n", "line 2: vcpus and memory_mib must be at least 1"),
            ("0,-2,1,1,0\n", "line 2: lifetime_s is -2: must be 0 or more, or -1"),
            (
                "9,1,1,1,0\n8,1,1,1,0\n",
                "line 3: arrival_s is 8, before that of the row above it: sort",
            ),
        ] {
            let error = read(format!("{HEADER}{rows}").as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{rows:?}: {error}");
        }
        let error = read(b"a,b\n1,2\n").unwrap_err().to_string();
        assert!(error.contains("\"a,b\": must have the columns arrival_s"), "{error}");
        assert!(read(&[0xff, 0xfe, 0]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec((0..9u64, prop::option::of(0..9u64), 1..9u32, 1..u32::MAX, 0..9u64), 1..20),
        ) {
            let mut now = 0;
            let trace: Vec<_> = rows.into_iter().map(|(wait, lifetime_s, vcpus, memory_mib, request)| {
                now += wait;
                Vm { arrival_s: now, lifetime_s, need: Resources::new(vcpus, memory_mib, 0), request }
            }).collect();
            prop_assert_eq!(read(write(&trace).as_bytes()), Ok(trace));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = read(format!("{HEADER}{text}").as_bytes());
        }
    }
}
