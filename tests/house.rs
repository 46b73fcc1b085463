//! The house's rules that no compiler holds: which room may use which, how files open, and what may stand nowhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms that it may use. `lib.rs` and `main.rs` are not rooms.
const ROOMS: &[(&str, &[&str])] = &[
    ("api", &["service", "domain"]),
    // The handle of the hosts alone, for what looks and talks: see `the_service_only_talks_to_hosts_by_their_handle`.
    ("service", &["store", "placement", "hypervisor", "config", "domain"]),
    ("reconcile", &["store", "placement", "hypervisor", "guest", "config", "domain"]),
    ("store", &["domain"]),
    ("hypervisor", &["domain"]),
    ("placement", &["domain"]),
    ("guest", &["domain"]),
    ("domain", &[]),
    ("config", &["domain"]),
    // Where the process is put together.
    (
        "server",
        &["api", "service", "reconcile", "store", "hypervisor", "placement", "config", "domain"],
    ),
    (
        "cli",
        &[
            "server",
            "api",
            "service",
            "store",
            "hypervisor",
            "placement",
            "guest",
            "config",
            "domain",
        ],
    ),
];

const LONGEST: usize = 400;

struct Source {
    /// Below the repository, such as `src/api/flavors.rs`.
    path: String,
    text: String,
    /// All of it is for tests.
    test: bool,
}

impl Source {
    /// The first name below `src/`, without its ending.
    fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let room = below.split('/').next()?;
        Some(room.strip_suffix(".rs").unwrap_or(room))
            .filter(|room| !["lib", "main"].contains(room))
    }

    /// How many modules deep it is: `src/api/mod.rs` and `src/config.rs` are 1, `src/api/flavors.rs` is 2.
    fn depth(&self) -> usize {
        let names = self.path.split('/').skip(1).filter(|name| *name != "mod.rs");
        names.count()
    }

    /// Without its tests and comments, a line for a line; empty where all of it is a test.
    fn code(&self) -> Vec<&str> {
        if self.test {
            return vec![];
        }
        let lines =
            self.text.lines().take_while(|line| *line != "#[cfg(test)]" || self.declares(line));
        lines.map(|line| if line.trim_start().starts_with("//") { "" } else { line }).collect()
    }

    /// Whether `#[cfg(test)]` here stands before a declaration, after which more code comes, and not before `mod tests {`.
    fn declares(&self, attribute: &str) -> bool {
        let after = self.text.split_once(attribute).map_or("", |(_, after)| after.trim_start());
        after.lines().next().is_some_and(|line| line.ends_with(';'))
    }

    /// What it uses of the crate: `["store", "hypervisor::Hosts"]`, with the line.
    fn uses(&self) -> Vec<(usize, String)> {
        let code = self.code();
        let mut uses = vec![];
        for (at, line) in code.iter().enumerate() {
            for (start, _) in line.match_indices("crate::") {
                // A list may go over several lines.
                let rest = format!("{}\n{}", &line[start + 7..], code[at + 1..].join("\n"));
                uses.extend(names(&rest).into_iter().map(|name| (at + 1, name)));
            }
        }
        uses
    }
}

/// The paths at the beginning of `text`: one, or those in braces.
fn names(text: &str) -> Vec<String> {
    let path = |text: &str| -> String {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect()
    };
    let Some(list) = text.strip_prefix('{') else { return vec![path(text)] };
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.iter().map(|item| path(item)).filter(|item| !item.is_empty()).collect()
}

/// Outside `src/`, or declared by the module above as `#[cfg(test)] mod name;`.
fn is_test(path: &str) -> bool {
    let Some((dir, name)) = path.rsplit_once('/').filter(|_| path.starts_with("src/")) else {
        return true;
    };
    let declaration = format!("#[cfg(test)]\nmod {};", name.trim_end_matches(".rs"));
    let above = [format!("{dir}/mod.rs"), format!("{dir}.rs"), format!("{dir}/lib.rs")];
    above.iter().any(|above| {
        fs::read_to_string(root().join(above)).is_ok_and(|text| text.contains(&declaration))
    })
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the repository, without what is built.
fn files() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            if [".git", "target"].contains(&below.as_str()) {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(Source { test: is_test(&below), path: below, text });
            }
        }
    }
    let mut found = vec![];
    walk(&root(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn sources() -> Vec<Source> {
    let sources: Vec<_> = files()
        .into_iter()
        .filter(|file| Path::new(&file.path).extension().is_some_and(|end| end == "rs"))
        .collect();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the sources are not found");
    sources
}

/// `faults` as one message, a line each.
fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

/// Every line of code outside tests for which `bad` holds.
fn lines(bad: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut found = vec![];
    for source in sources() {
        for (at, line) in source.code().iter().enumerate() {
            if bad(&source, line) {
                found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn a_room_uses_only_the_rooms_that_it_may() {
    let mut faults = vec![];
    let mut seen = 0;
    for source in sources() {
        let Some(room) = source.room() else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: {room} is no room of the house", source.path));
            continue;
        };
        for (line, used) in source.uses() {
            seen += 1;
            let other = used.split("::").next().unwrap();
            let is_room = ROOMS.iter().any(|(name, _)| *name == other);
            if is_room && other != room && !allowed.contains(&other) {
                faults.push(format!("{}:{line}: {room} may not use {other}", source.path));
            }
        }
    }
    assert!(seen > 100, "the test does not see what rooms use");
    none(&faults, "rooms use what they may not (ROOMS in tests/house.rs)");
}

#[test]
fn no_path_leaves_its_room_by_super() {
    let faults = lines(|source, line| {
        let longest = line.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c)));
        let supers = longest.map(|path| path.matches("super::").count()).max().unwrap_or(0);
        source.room().is_some() && supers >= source.depth()
    });
    none(&faults, "write crate:: where another room is meant");
}

#[test]
fn the_service_only_talks_to_hosts_by_their_handle() {
    let mut faults = vec![];
    for source in sources().iter().filter(|source| source.room() == Some("service")) {
        for (line, used) in source.uses() {
            if used.starts_with("hypervisor")
                && used != "hypervisor::Hosts"
                && !used.starts_with("hypervisor::{")
            {
                faults.push(format!("{}:{line}: {used}", source.path));
            }
        }
    }
    none(&faults, "a request never changes a host; to look and talk there is hypervisor::Hosts");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    none(&silent, "line 1 is `//! One sentence.`");
}

#[test]
fn files_are_short() {
    let mut faults = vec![];
    for source in sources() {
        let lines = if source.test { source.text.lines().count() } else { source.code().len() };
        if lines > LONGEST {
            faults.push(format!("{}: {lines} lines", source.path));
        }
    }
    none(&faults, "a file has at most 400 lines, its tests aside");
}

#[test]
fn only_the_store_speaks_sql_and_in_lower_case() {
    // The keeper of the PostgreSQL server asks the server about itself, never about our tables.
    let speaks = |source: &Source| {
        source.room() == Some("store") || source.path.starts_with("src/cli/postgres")
    };
    let sql = |line: &str| {
        let statement = |a: &str, b: &str| line.find(a).is_some_and(|at| line[at..].contains(b));
        statement("select ", " from ")
            || statement("insert into ", "")
            || statement("delete from ", "")
            || statement("update ", " set ")
    };
    none(&lines(|source, line| !speaks(source) && sql(line)), "SQL is for src/store");
    let shouted = lines(|source, line| {
        speaks(source)
            && ["SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM"]
                .iter()
                .any(|word| line.contains(word))
    });
    none(&shouted, "SQL is written in lower case");
}

#[test]
fn connections_come_from_the_stores_pool() {
    let faults = lines(|source, line| {
        let asks =
            [".begin()", "db.acquire()", "pool.acquire()"].iter().any(|ask| line.contains(ask));
        asks && source.path != "src/store/pool.rs"
    });
    none(&faults, "store::begin and store::acquire give what a dropped future cannot spoil");
}

#[test]
fn only_the_configuration_reads_the_environment() {
    let faults = lines(|source, line| source.room() != Some("config") && line.contains("env::var"));
    none(&faults, "settings come from config.rs");
}

#[test]
fn nothing_unwraps_outside_tests() {
    none(&lines(|_, line| line.contains(".unwrap()")), "give an error that says what would do");
}

#[test]
fn unsafe_code_is_in_one_file() {
    let faults = lines(|source, line| {
        let allowed = source.path == "src/hypervisor/libvirt/ffi.rs";
        !allowed
            && line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
    });
    none(&faults, "unsafe code is in src/hypervisor/libvirt/ffi.rs");
}

#[test]
fn no_file_names_what_is_not_everybodys() {
    // In parts, so that this file does not name them either.
    let words = [
        concat!("/wo", "rk/"),
        concat!("../sha", "red"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".com"),
        concat!("proxy.golang", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let mut faults = vec![];
    // Cargo writes the name of its registry into the lock file.
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (at, line) in file.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{}:{}: {word}", file.path, at + 1));
            }
        }
    }
    none(&faults, "no place of one machine and no registry is named in the repository");
}
