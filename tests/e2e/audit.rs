//! What host, database and disk hold of a cloud, asked of each directly and not of its API.

use std::collections::BTreeSet;
use std::fs;

use sqlx::Row;

use crate::cloud::{Cloud, names};

/// What there must be: these instances, each of it once and whole, and nothing else.
pub struct Expected<'a> {
    /// Ids of instances that run.
    pub running: &'a [&'a str],
    /// Ids of instances that are stopped: disk and seed, but no domain.
    pub stopped: &'a [&'a str],
    /// How many base images are on the host.
    pub bases: usize,
}

impl Cloud {
    /// Holds every place to `expected`.
    pub async fn holds(&self, expected: &Expected<'_>) {
        let mark = self.mark();
        let sorted =
            |ids: &[&[&str]]| ids.concat().into_iter().map(String::from).collect::<BTreeSet<_>>();
        let all = sorted(&[expected.running, expected.stopped]);

        let domains = names(&self.host, &["list", "--all", "--name"], &mark);
        let running: BTreeSet<_> =
            domains.iter().map(|name| name[mark.len() + 1..].to_owned()).collect();
        assert_eq!(running, sorted(&[expected.running]), "domains");
        assert_eq!(domains.len(), running.len(), "domains, each once");
        assert_eq!(self.qemus(&mark), running.len(), "QEMU processes");

        let mut conn = self.db().await;
        let mut incarnations = BTreeSet::new();
        let mut claimed = [0_i64; 3];
        let query =
            "select instance_id::text, id::text, vcpus, memory_mib, disk_gib, disk_made, seed_made
                     from incarnations where fenced_at is null";
        let mut owners = Vec::new();
        for row in sqlx::query(query).fetch_all(&mut conn).await.unwrap() {
            owners.push(row.get::<String, _>(0));
            incarnations.insert(row.get::<String, _>(1));
            for (sum, column) in claimed.iter_mut().zip(2..) {
                *sum += row.get::<i64, _>(column);
            }
            assert!(row.get::<bool, _>(5) && row.get::<bool, _>(6), "made whole");
        }
        owners.sort();
        assert_eq!(owners, Vec::from_iter(all.clone()), "an incarnation an instance");
        let used = "select coalesce(sum(used_vcpus), 0)::bigint, coalesce(sum(used_memory_mib), 0)::bigint,
                    coalesce(sum(used_disk_gib), 0)::bigint from hosts";
        let used = sqlx::query(used).fetch_one(&mut conn).await.unwrap();
        assert_eq!([0, 1, 2].map(|column| used.get::<i64, _>(column)), claimed, "hosts.used");

        let instances = self.count("select count(*) from instances").await;
        assert_eq!(usize::try_from(instances).unwrap(), all.len(), "instances");
        assert_eq!(
            self.count("select count(*) from incarnations where fenced_at is not null").await,
            0
        );
        assert_eq!(
            self.count("select count(*) from ports where owned").await,
            i64::try_from(all.len()).unwrap(),
            "a port an instance"
        );
        assert_eq!(
            self.count("select count(*) from addresses where port_id is not null").await,
            self.count("select count(*) from ports").await,
            "an address a port"
        );
        assert_eq!(
            self.count("select count(*) from work where kind in ('instance', 'fence') and item not in (select id from instances)").await,
            0,
            "work for what is gone"
        );
        assert_eq!(
            self.count("select count(*) from orphans where ours").await,
            0,
            "orphans of ours"
        );

        let mut files = BTreeSet::new();
        let mut bases = 0;
        for dir in ["disks", "consoles"] {
            for name in self.pool_files(dir) {
                if name.starts_with("base-") {
                    bases += 1;
                } else {
                    files.insert(name);
                }
            }
        }
        let wanted = incarnations.iter().flat_map(|id| {
            [format!("disk-{id}.qcow2"), format!("seed-{id}.iso"), format!("{id}.log")]
        });
        assert_eq!(files, wanted.collect(), "files in the pools");
        assert_eq!(bases, expected.bases, "base images");

        // A network is on the host for those who have a port on it there.
        let networks = names(&self.host, &["net-list", "--all", "--name"], &mark);
        let noted = self.count("select count(*) from host_networks").await;
        assert_eq!(networks.len(), usize::try_from(noted).unwrap(), "networks: {networks:?}");
        if all.is_empty() {
            assert!(networks.is_empty(), "{networks:?}");
        }
    }

    /// Holds host, database and disk to nothing but so many base images.
    pub async fn holds_nothing(&self, bases: usize) {
        self.holds(&Expected { running: &[], stopped: &[], bases }).await;
    }

    /// Names of the files in a pool, `disks` or `consoles`.
    pub fn pool_files(&self, pool: &str) -> Vec<String> {
        let dir = self.state.path().join("pools").join(pool);
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// How many guests of ours are processes, whatever libvirt says.
    fn qemus(&self, mark: &str) -> usize {
        let guest = format!("guest={mark}-");
        self.host.run("ps", &["-eo", "args"]).lines().filter(|args| args.contains(&guest)).count()
    }

    /// Whether DHCP's files on the host know the MAC, as an entry or a lease.
    pub fn dhcp_knows(&self, mac: &str) -> bool {
        let dir = self.host.path("lib/dnsmasq");
        let Ok(entries) = fs::read_dir(dir) else { return false };
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .any(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).contains(mac))
    }

    /// How many packet filters are bound to interfaces of this instance.
    pub fn filters_of(&self, id: &str) -> usize {
        let list = self.host.virsh(&["nwfilter-binding-list"]);
        let ports = list.lines().filter_map(|line| line.split_whitespace().next());
        ports
            .filter(|port| {
                let (_, xml) = crate::process::run(self.host.command("virsh").args([
                    "-q",
                    "nwfilter-binding-dumpxml",
                    port,
                ]));
                xml.contains(id)
            })
            .count()
    }
}
