//! The nouns that all have the same verbs: where they are, what a table shows of them, what a new one is made of.

/// A noun of the API.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a row of a table, where each is a column")]
pub struct Noun {
    pub name: &'static str,
    pub about: &'static str,
    /// Below `/v1/`.
    pub path: &'static str,
    /// Whether the list takes `?name=`; otherwise names are looked for in all of it.
    pub by_name: bool,
    /// Whether the list takes `?label=`.
    pub labels: bool,
    /// Whether the list takes `?all_tenants=`.
    pub tenants: bool,
    /// Heading and path of each column of a table; `*` goes through an array.
    pub columns: &'static [(&'static str, &'static str)],
    /// What `create` takes; none: it has a `create` of its own.
    pub fields: &'static [Field],
    /// Whether there is something to change.
    pub changes: bool,
}

/// An argument of `create` and the key of the body that it becomes.
#[derive(Debug)]
pub struct Field {
    /// A positional argument if it is in capitals, else a flag.
    pub flag: &'static str,
    pub key: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    /// A flag without a value: true.
    Switch,
    /// A flag without a value: false.
    Off,
    /// Given as often as wanted.
    Texts,
    /// `KEY=VALUE`, as often as wanted.
    Pairs,
    /// The content of this file, without a last new line; `-`: standard input.
    File,
    /// Id or name of this noun; the body gets the id.
    Id(&'static str),
    /// The same, as often as wanted.
    Ids(&'static str),
}

use Kind::{File, Id, Ids, Number, Off, Pairs, Switch, Text, Texts};

const fn must(flag: &'static str, key: &'static str, kind: Kind, help: &'static str) -> Field {
    Field { flag, key, kind, required: true, help }
}

const fn may(flag: &'static str, key: &'static str, kind: Kind, help: &'static str) -> Field {
    Field { flag, key, kind, required: false, help }
}

const NAME: Field = must("NAME", "name", Text, "Its name");
const LABEL: Field = may("label", "labels", Pairs, "A label; may be given several times");
pub const POLICIES: &str =
    "How hosts are chosen: best_fit, best_fit_sum, spread, lifetime_fit or round_robin";
pub const IMAGE_TRAITS: &str =
    "What the host of its instances must offer, such as arch:x86_64; may be given several times";
const DESCRIPTION: Field = may("description", "description", Text, "What people should know");

const PLAIN: Noun = Noun {
    name: "",
    about: "",
    path: "",
    by_name: true,
    labels: false,
    tenants: false,
    columns: &[],
    fields: &[],
    changes: false,
};

pub const NOUNS: &[Noun] = &[
    Noun {
        name: "instance",
        about: "Virtual machines",
        path: "instances",
        labels: true,
        tenants: true,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("STATUS", "status"),
            ("FLAVOR", "flavor.name"),
            ("ADDRESSES", "interfaces.*.address"),
            ("REASON", "reason"),
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "image",
        about: "Bootable disks",
        path: "images",
        labels: true,
        tenants: true,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("STATUS", "status"),
            ("FORMAT", "format"),
            ("VISIBILITY", "visibility"),
            ("BYTES", "size_bytes"),
        ],
        fields: &[
            NAME,
            must("format", "format", Text, "raw or qcow2"),
            may("visibility", "visibility", Text, "private (the default) or public"),
            may("sha256", "sha256", Text, "What the bytes' checksum will be, in hex"),
            may("trait", "required_traits", Texts, IMAGE_TRAITS),
            DESCRIPTION,
            LABEL,
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "flavor",
        about: "Sizes of instances",
        path: "flavors",
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("VCPUS", "vcpus"),
            ("MEMORY MIB", "memory_mib"),
            ("DISK GIB", "disk_gib"),
            ("TRAITS", "traits.*"),
        ],
        fields: &[
            NAME,
            must("vcpus", "vcpus", Number, "Virtual CPUs"),
            must("memory-mib", "memory_mib", Number, "Memory in MiB"),
            must("disk-gib", "disk_gib", Number, "Root disk in GiB"),
            may("trait", "traits", Texts, "What its host must have; may be given several times"),
            may("policy", "policy", Text, POLICIES),
        ],
        ..PLAIN
    },
    Noun {
        name: "group",
        about: "Instances that are to share a host or a zone, or not to",
        path: "groups",
        tenants: true,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("RULE", "rule"),
            ("SCOPE", "scope"),
            ("HARD", "hard"),
            ("INSTANCES", "instances"),
        ],
        fields: &[
            NAME,
            must("rule", "rule", Text, "affinity or anti_affinity"),
            may("scope", "scope", Text, "host (the default) or zone"),
            may("soft", "hard", Off, "Rather break the rule than wait"),
        ],
        ..PLAIN
    },
    Noun {
        name: "reservation",
        about: "Capacity held for a while",
        path: "reservations",
        tenants: true,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("FLAVOR", "flavor_name"),
            ("SLOTS", "slots"),
            ("FREE", "free"),
            ("EXPIRES", "expires_at"),
        ],
        fields: &[
            NAME,
            must("flavor", "flavor", Text, "Id or name of a flavor: the size of a slot"),
            must("slots", "slots", Number, "How many instances are to have room"),
            must("expires-at", "expires_at", Text, "Until when, such as 2030-01-31T12:00:00Z"),
            may("zone", "zone", Text, "Only hosts of this zone"),
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "aggregate",
        about: "Hosts dedicated to tenants (for admins)",
        path: "aggregates",
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("HOSTS", "hosts.*"),
            ("TENANTS", "tenants.*"),
            ("DESCRIPTION", "description"),
        ],
        fields: &[
            NAME,
            may("host", "hosts", Ids("host"), "Id or name of a host; may be given several times"),
            may(
                "tenant",
                "tenants",
                Ids("tenant"),
                "Id or name of a tenant; may be given several times",
            ),
            DESCRIPTION,
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "network",
        about: "Isolated networks",
        path: "networks",
        labels: true,
        tenants: true,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("CIDR", "cidr"),
            ("GATEWAY", "gateway"),
            ("STATUS", "status"),
            ("REASON", "status_reason"),
        ],
        fields: &[
            NAME,
            may("cidr", "cidr", Text, "Its subnet; a free one if not given"),
            may("gateway", "gateway", Text, "Its gateway; the first address if not given"),
            may("dns", "dns", Texts, "A name server; may be given several times"),
            may("range-start", "range_start", Text, "The first address that ports may have"),
            may("range-end", "range_end", Text, "The last address that ports may have"),
            may(
                "port-security",
                "port_security",
                Switch,
                "Drop what guests send under a false address",
            ),
            LABEL,
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "port",
        about: "Interfaces on networks",
        path: "ports",
        tenants: true,
        columns: &[
            ("ID", "id"),
            ("NAME", "name"),
            ("NETWORK", "network_id"),
            ("MAC", "mac"),
            ("ADDRESS", "address"),
            ("INSTANCE", "instance_id"),
        ],
        fields: &[
            must("network", "network_id", Id("network"), "Id or name of its network"),
            may("name", "name", Text, "Its name"),
            may("mac", "mac", Text, "Its MAC address; one is chosen if not given"),
            may("address", "address", Text, "Its IP address; a free one if not given"),
        ],
        ..PLAIN
    },
    Noun {
        name: "keypair",
        about: "Public SSH keys",
        path: "keypairs",
        tenants: true,
        columns: &[("NAME", "name"), ("ID", "id"), ("FINGERPRINT", "fingerprint")],
        fields: &[
            NAME,
            must("FILE", "public_key", File, "The public key, such as ~/.ssh/id_ed25519.pub"),
        ],
        ..PLAIN
    },
    Noun {
        name: "host",
        about: "Hypervisor hosts (for admins)",
        path: "hosts",
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("URI", "uri"),
            ("ENABLED", "enabled"),
            ("HEALTH", "health"),
            ("REASON", "health_reason"),
        ],
        fields: &[
            NAME,
            must("URI", "uri", Text, "Its libvirt URI, such as qemu+ssh://root@host/system"),
            may("zone", "zone", Text, "Its zone"),
            may("trait", "traits", Texts, "What it has; may be given several times"),
            may("virt-type", "virt_type", Text, "auto, kvm or qemu"),
            may("pool-path", "pool_path", Text, "Where it keeps disks"),
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "tenant",
        about: "Tenants, their quota and their members",
        path: "tenants",
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("INSTANCES", "quota.instances"),
            ("VCPUS", "quota.vcpus"),
            ("MEMORY MIB", "quota.memory_mib"),
            ("DISK GIB", "quota.disk_gib"),
        ],
        fields: &[NAME, DESCRIPTION],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "user",
        about: "Users (for admins)",
        path: "users",
        columns: &[("NAME", "name"), ("ID", "id"), ("ADMIN", "admin"), ("ENABLED", "enabled")],
        fields: &[
            NAME,
            must(
                "password-file",
                "password",
                File,
                "The file that holds the password; -: standard input",
            ),
            may("admin", "admin", Switch, "Make it an admin of the cloud"),
        ],
        changes: true,
        ..PLAIN
    },
    Noun {
        name: "token",
        about: "API tokens",
        path: "tokens",
        by_name: false,
        columns: &[
            ("NAME", "name"),
            ("ID", "id"),
            ("PREFIX", "prefix"),
            ("ROLE", "role"),
            ("EXPIRES", "expires_at"),
            ("LAST USED", "last_used_at"),
        ],
        fields: &[
            NAME,
            may(
                "expires-in-s",
                "expires_in_s",
                Number,
                "How long it lives, in seconds; without: for ever",
            ),
            may("role", "role", Text, "At most this role: reader, member or owner"),
        ],
        ..PLAIN
    },
];

/// The noun of this name, which the table has.
pub fn noun(name: &str) -> &'static Noun {
    NOUNS.iter().find(|noun| noun.name == name).unwrap_or(&PLAIN)
}
