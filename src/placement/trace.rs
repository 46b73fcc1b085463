//! Traces: who arrived when, how big, and for how long, one VM a row of CSV, in the order of arrival.

use std::num::NonZero;
use std::str::FromStr;

use super::resources::Resources;

/// Most rows of a trace: what is held in memory while it is replayed, 32 bytes a row.
pub const ROWS_MAX: usize = 50_000_000;
/// How many characters of what is wrong an error quotes.
const QUOTED: usize = 80;

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
        "line 1: the header is {found:?}: must have the columns arrival_s, lifetime_s, vcpus, memory_mib and request, each once"
    )]
    Header { found: String },
    #[error("the trace has more than {ROWS_MAX} rows: cut it")]
    TooLong,
}

const COLUMNS: [&str; 5] = ["arrival_s", "lifetime_s", "vcpus", "memory_mib", "request"];

/// Reads a whole trace, columns in any order. `hosts`: the kinds of hosts that it is meant for, each by its limit; none: any.
///
/// # Errors
/// The first row that is no row of whole numbers, has a zero size or a lifetime below -1, is larger than every host, or
/// arrives before the row above it: with its line, its column and what would do.
pub fn read(text: &[u8], hosts: &[Resources]) -> Result<Vec<Vm>, TraceError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let header = reader.headers().map_err(|error| unreadable(text, &error))?.clone();
    let places = columns(&header)?;
    let mut trace: Vec<Vm> = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| unreadable(text, &error))? {
        let line = line(text, record.position());
        if trace.len() == ROWS_MAX {
            return Err(TraceError::TooLong);
        }
        let vm = row(&record, places, hosts).and_then(|vm| match trace.last() {
            Some(above) if above.arrival_s > vm.arrival_s => Err(format!(
                "arrival_s is {}, before {} of the row above it: sort the rows by arrival_s",
                vm.arrival_s, above.arrival_s
            )),
            _ => Ok(vm),
        });
        trace.push(vm.map_err(|detail| TraceError::Row { line, detail })?);
    }
    if trace.is_empty() { Err(TraceError::Empty) } else { Ok(trace) }
}

/// Where each of [`COLUMNS`] is, once.
fn columns(header: &csv::StringRecord) -> Result<[usize; 5], TraceError> {
    let mut places = [0; 5];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let mut found = (0..header.len()).filter(|at| header.get(*at) == Some(column));
        match (found.next(), found.next()) {
            (Some(at), None) => *place = at,
            _ => {
                let found = header.iter().collect::<Vec<_>>().join(",");
                return Err(TraceError::Header { found: found.chars().take(QUOTED).collect() });
            }
        }
    }
    Ok(places)
}

/// One row, or what is wrong with it.
fn row(record: &csv::StringRecord, places: [usize; 5], hosts: &[Resources]) -> Result<Vm, String> {
    let text = |column: usize| record.get(places[column]).unwrap_or_default();
    let arrival_s = number(0, text(0), "a whole number of seconds from 0 on")?;
    let lifetime_s = match text(1) {
        "-1" => None,
        other => Some(number(1, other, "0 or more whole seconds, or -1 for a VM that stays")?),
    };
    let vcpus: NonZero<u32> = number(2, text(2), "a whole number from 1 to 4294967295")?;
    let memory: NonZero<u32> = number(3, text(3), "whole MiB from 1 to 4294967295")?;
    let request = number(4, text(4), "a whole number, the same for VMs asked for together")?;
    let need = Resources::new(vcpus.get(), memory.get(), 0);
    if !hosts.is_empty() && !hosts.iter().any(|host| need.fits_in(*host)) {
        return Err(too_large(need, hosts));
    }
    Ok(Vm { arrival_s, lifetime_s, need, request })
}

fn number<T: FromStr>(column: usize, text: &str, must: &str) -> Result<T, String> {
    text.parse().map_err(|_not_one: T::Err| {
        let column = COLUMNS[column];
        if text.is_empty() {
            return format!("{column} is missing: must be {must}");
        }
        let shown: String = text.chars().take(QUOTED).collect();
        format!("{column} is {shown:?}: must be {must}")
    })
}

/// Which column is too large for every host; both where only their combination is.
fn too_large(need: Resources, hosts: &[Resources]) -> String {
    let most = hosts.iter().copied().fold(Resources::ZERO, Resources::max);
    let column = match (need.vcpus > most.vcpus, need.memory_mib > most.memory_mib) {
        (true, false) => format!("vcpus is {}", need.vcpus),
        (false, true) => format!("memory_mib is {}", need.memory_mib),
        _ => format!("vcpus and memory_mib are {} and {}", need.vcpus, need.memory_mib),
    };
    format!(
        "{column}, more than any host has (at most {} vCPUs, {} MiB): give larger hosts or leave the row out",
        most.vcpus, most.memory_mib
    )
}

/// The line of a record, whose position is that of the blank lines before it, if there are any.
fn line(text: &[u8], position: Option<&csv::Position>) -> u64 {
    let Some(position) = position else { return 1 };
    let at = usize::try_from(position.byte()).unwrap_or(usize::MAX);
    let rest = text.get(at..).unwrap_or_default();
    let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
    position.line() + blank.filter(|byte| **byte == b'\n').count() as u64
}

fn unreadable(text: &[u8], error: &csv::Error) -> TraceError {
    let line = line(text, error.position());
    let detail = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} columns: must have {expected_len}, as the header")
        }
        csv::ErrorKind::Utf8 { .. } => "is no text in UTF-8: save the trace as CSV".into(),
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
    fn what_is_no_trace_is_refused_by_its_line_and_column_and_what_would_do() {
        for (rows, says) in [
            ("", "no rows"),
            ("0,1,1,1\n", "line 2: has 4 columns: must have 5"),
            ("0,1,1,1,0\n\n5,x,1,1,0\n", "line 4: lifetime_s is \"x\": must be 0 or more whole"),
            ("0,,1,1,0\n", "line 2: lifetime_s is missing: must be "),
            (" ,1,1,1,0\n", "line 2: arrival_s is missing: must be "),
            ("0,1,1,1,\n", "line 2: request is missing: must be "),
            ("-5,1,1,1,0\n", "line 2: arrival_s is \"-5\": must be "),
            (
                "18446744073709551616,1,1,1,0\n",
                "line 2: arrival_s is \"18446744073709551616\": must",
            ),
            ("0,1.5,1,1,0\n", "line 2: lifetime_s is \"1.5\": must be "),
            (
                "0,-2,1,1,0\n",
                "line 2: lifetime_s is \"-2\": must be 0 or more whole seconds, or -1",
            ),
            ("0,1,1,-1,0\n", "line 2: memory_mib is \"-1\": must be whole MiB from 1"),
            ("0,1,4294967296,1,0\n", "line 2: vcpus is \"4294967296\": must be "),
            ("0,1,0,1,0\n", "line 2: vcpus is \"0\": must be a whole number from 1"),
            ("0,1,1,0,0\n", "line 2: memory_mib is \"0\": must be "),
            (
                "0,1,9,1,0\n",
                "line 2: vcpus is 9, more than any host has (at most 8 vCPUs, 64 MiB): give",
            ),
            ("0,1,1,65,0\n", "line 2: memory_mib is 65, more than any host has"),
            ("0,1,8,64,0\n", "line 2: vcpus and memory_mib are 8 and 64, more than any host has"),
            (
                "9,1,1,1,0\n8,1,1,1,0\n",
                "line 3: arrival_s is 8, before 9 of the row above it: sort the rows by arrival_s",
            ),
        ] {
            let hosts = [Resources::new(8, 32, 0), Resources::new(4, 64, 0)];
            let error = read(format!("{HEADER}{rows}").as_bytes(), &hosts).unwrap_err().to_string();
            assert!(error.contains(says), "{rows:?}: {error}");
        }
        for header in ["a,b", "arrival_s,arrival_s,lifetime_s,vcpus,memory_mib,request"] {
            let error = read(format!("{header}\n1,2\n").as_bytes(), &[]).unwrap_err().to_string();
            assert!(error.contains(&format!("line 1: the header is {header:?}: must")), "{error}");
        }
        assert!(read(&[0xff, 0xfe, 0], &[]).is_err());
        let error = read(format!("{HEADER}{}\n", "9".repeat(10_000)).as_bytes(), &[]).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
    }

    #[test]
    fn the_column_at_fault_is_named_wherever_it_stands() {
        let text = "request,memory_mib,vcpus,lifetime_s,arrival_s,note\n1,x,1,1,0,hm\n";
        let error = read(text.as_bytes(), &[]).unwrap_err().to_string();
        assert!(error.contains("memory_mib is \"x\""), "{error}");
        let vm = read(text.replace('x', "7").as_bytes(), &[]).unwrap()[0];
        assert_eq!((vm.need.memory_mib, vm.request), (7, 1));
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
            prop_assert_eq!(read(write(&trace).as_bytes(), &[]), Ok(trace));
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = read(format!("{HEADER}{text}").as_bytes(), &[]);
        }
    }
}
