//! Tests of `guest::seed`: what is written is what a reader finds.

use std::io::Cursor;

use hadris_iso::read::{IsoImage, IsoReader};
use proptest::prelude::*;

use super::*;

fn seed() -> Seed {
    Seed {
        instance_id: "0192f0c1-0000-7000-8000-000000000001".into(),
        hostname: "ci-runner-1".into(),
        public_keys: vec!["ssh-ed25519 AAAA käthe \"quoted\" \\ back".into()],
        user_data: b"#!/bin/sh\necho hello\n".to_vec(),
        nics: vec![
            SeedNic { mac: "52:54:00:00:00:01".into(), dns: Vec::new() },
            SeedNic { mac: "52:54:00:00:00:02".into(), dns: vec!["9.9.9.9".parse().expect("ip")] },
        ],
    }
}

/// The file `name` as a reader of Joliet finds it.
fn joliet(image: &[u8], name: &str) -> Vec<u8> {
    let mut reader = IsoReader::open(Cursor::new(image)).expect("open");
    let entry = reader.find_path(name).expect("look").expect("find");
    let mut file = reader.open_file(&entry).expect("open file");
    let (mut all, mut chunk) = (Vec::new(), [0; 1000]);
    loop {
        match file.read_chunk(&mut chunk).expect("read") {
            0 => return all,
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
}

/// The names that a reader of Rock Ridge finds, with their modes.
fn rock_ridge(image: &[u8]) -> Vec<(String, u32)> {
    let image = IsoImage::open(Cursor::new(image)).expect("open");
    let root = image.root_dir();
    let records = root.iter(&image);
    let entries = records.entries().map(|entry| entry.expect("entry"));
    let mut names = Vec::new();
    for entry in entries.filter(|entry| !entry.is_special()) {
        let Some(rrip) = entry.rrip.as_ref() else { continue };
        let mode = rrip.posix_attributes.as_ref().expect("mode").file_mode.read();
        names.push((rrip.alternate_name.clone().expect("name"), mode));
    }
    names
}

#[test]
fn a_seed_says_who_where_and_with_which_keys() {
    let image = seed_iso(&seed()).expect("seed");
    let text = |name| String::from_utf8(joliet(&image, name)).expect("utf-8");
    assert_eq!(
        text("meta-data"),
        "instance-id: \"0192f0c1-0000-7000-8000-000000000001\"\nlocal-hostname: \"ci-runner-1\"\n\
         public-keys:\n  - \"ssh-ed25519 AAAA käthe \\\"quoted\\\" \\\\ back\"\n"
    );
    assert_eq!(
        text("network-config"),
        "version: 2\nethernets:\n  eth0:\n    match:\n      macaddress: \"52:54:00:00:00:01\"\n    \
         set-name: eth0\n    dhcp4: true\n  eth1:\n    match:\n      macaddress: \
         \"52:54:00:00:00:02\"\n    set-name: eth1\n    dhcp4: true\n    nameservers:\n      \
         addresses:\n        - \"9.9.9.9\"\n"
    );
    assert_eq!(text("user-data"), "#!/bin/sh\necho hello\n");
    assert_eq!(text("vendor-data"), "");
}

#[test]
fn readers_of_rock_ridge_find_the_same_names_for_root_alone() {
    let mut names = rock_ridge(&seed_iso(&seed()).expect("seed"));
    names.sort();
    let expected = ["meta-data", "network-config", "user-data", "vendor-data"];
    assert_eq!(names, expected.map(|name| (name.to_owned(), 0o100_400)));
}

#[test]
fn no_date_of_the_writers_is_left() {
    let image = seed_iso(&seed()).expect("seed");
    #[expect(clippy::disallowed_methods, reason = "the writer asks the system too")]
    let year = chrono::Utc::now().format("%Y").to_string();
    assert!(!image.windows(4).any(|long| long == year.as_bytes()));
    let short = image.windows(7).filter(|date| *date == [100, 1, 1, 0, 0, 0, 0]).count();
    // Two trees (plain and Joliet): the root's record in the descriptor, `.`, `..` and four files in each.
    assert_eq!(short, 2 * (1 + 2 + 4));
}

#[test]
fn user_data_beyond_its_bound_is_refused() {
    let at = |bytes: usize| seed_iso(&Seed { user_data: vec![b'x'; bytes], ..seed() });
    assert!(at(USER_DATA_MAX).is_ok());
    assert!(at(USER_DATA_MAX + 1).is_err_and(|e| e.to_string().contains("65536")));
}

#[test]
fn a_quoted_text_is_one_line_of_what_every_yaml_reader_takes() {
    let odd = "a\nb\t\u{7f}\u{85}\u{2028}\u{feff}🦀日本";
    assert_eq!(
        quoted(odd),
        "\"a\\U0000000Ab\\U00000009\\U0000007F\\U00000085\\U00002028\\U0000FEFF\\U0001F980日本\""
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_in_comes_out_and_the_same_bytes_each_time(
        user_data in proptest::collection::vec(any::<u8>(), 0..=USER_DATA_MAX),
        hostname in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        keys in proptest::collection::vec("\\PC{0,300}", 0..20),
        nics in 0_u8..9,
    ) {
        let nics = (0..nics).map(|n| SeedNic { mac: format!("52:54:00:00:00:{n:02x}"), dns: Vec::new() }).collect();
        let seed = Seed { instance_id: "i".into(), hostname, public_keys: keys, user_data, nics };
        let image = seed_iso(&seed).expect("seed");
        prop_assert_eq!(image.len() % SECTOR, 0);
        prop_assert_eq!(joliet(&image, "user-data"), seed.user_data.clone());
        prop_assert_eq!(joliet(&image, "meta-data"), meta_data(&seed).into_bytes());
        prop_assert_eq!(joliet(&image, "network-config"), network_config(&seed).into_bytes());
        prop_assert_eq!(image, seed_iso(&seed).expect("seed"));
    }
}
