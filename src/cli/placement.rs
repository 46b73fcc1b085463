//! `pileus placement`: replays traces of VMs over imagined hosts, to see what a policy would keep busy, which needs no cloud; and
//! asks a cloud what it would do.

mod plot;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets;

use crate::cli::client;
use crate::placement::Policy;
use crate::placement::simulate::{self, Fleet, Lifetimes, Outcome, Rule};
use crate::placement::trace;

#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replay a trace over hosts, once for each policy
    Simulate(Simulate),
    /// Write a trace with a realistic mix of sizes, batches and lifetimes
    Generate(Generate),
    /// Ask a cloud which host an instance would get now, or what stands in the way and what would do
    Explain(client::Explain),
}

#[derive(Debug, Args)]
struct Simulate {
    /// CSV with the columns arrival_s, lifetime_s (-1: stays), vcpus, memory_mib, request, in the order of arrival
    trace: PathBuf,
    /// Kinds of hosts and how many of each: vCPUs, GiB and number, as in 64c256g:500,32c128g:20
    #[arg(long)]
    hosts: Fleet,
    /// Only this policy; may be given again
    #[arg(long)]
    policy: Vec<Policy>,
    /// What lifetime_fit knows of each VM's lifetime: given, as if its request said when it ends, or learnt from those that came
    /// before; both in turn if left out
    #[arg(long)]
    lifetimes: Option<Lifetimes>,
    /// Place so many VMs that arrive in the same second in one pass, as the server does, under lifetime_fit those expected to stay
    /// longest first; 1: each by itself
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pass: u32,
    /// Print JSON, with the hosts in use over time
    #[arg(long)]
    json: bool,
    /// Draw the hosts in use over time to this file, as SVG
    #[arg(long)]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Generate {
    /// How many VMs
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    vms: u32,
    /// The same seed gives the same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub async fn run(options: Options) -> Result<()> {
    match options.command {
        Command::Explain(question) => client::explain(question).await,
        Command::Simulate(simulate) => self::simulate(&simulate),
        Command::Generate(Generate { vms, seed }) => {
            super::print(&trace::write(&simulate::generate(vms as usize, seed)))
        }
    }
}

fn simulate(options: &Simulate) -> Result<()> {
    let path = options.trace.display();
    let text = std::fs::read(&options.trace).with_context(|| format!("{path} cannot be read"))?;
    let trace = trace::read(&text, &options.hosts.kinds())
        .with_context(|| format!("{path} is no trace"))?;
    let policies =
        if options.policy.is_empty() { Policy::ALL.to_vec() } else { options.policy.clone() };
    let outcomes: Vec<_> = policies
        .into_iter()
        .flat_map(|policy| Rule::all(policy, options.lifetimes, options.pass as usize))
        .map(|rule| simulate::replay(&options.hosts, &trace, rule))
        .collect();
    if let Some(path) = &options.svg {
        std::fs::write(path, plot::svg(&outcomes))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if options.json {
        return super::print(&serde_json::to_string_pretty(&outcomes)?);
    }
    super::print(&table(&outcomes))
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "POLICY",
        "PLACED",
        "REFUSED",
        "MEAN HOSTS",
        "PEAK",
        "BOUND",
        "PACKING",
        "2ND HALF",
        "STRANDED CPU",
        "STRANDED MEMORY",
    ]);
    for outcome in outcomes {
        let number = |value: f64, text: String| if value.is_nan() { "-".into() } else { text };
        let percent = |share: f64| number(share, format!("{:.2} %", share * 100.0));
        let digits = |value: f64, digits: usize| number(value, format!("{value:.digits$}"));
        table.add_row([
            outcome.rule.to_string(),
            outcome.placed.to_string(),
            outcome.refused.to_string(),
            digits(outcome.mean_hosts, 1),
            outcome.peak_hosts.to_string(),
            digits(outcome.mean_bound, 1),
            digits(outcome.packing, 4),
            digits(outcome.packing_late, 4),
            percent(outcome.stranded_vcpus),
            percent(outcome.stranded_memory),
        ]);
    }
    // Without borders, cells still keep their distance from where those would be.
    let lines = table.lines().map(|line| line.trim().to_owned() + "\n");
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_space_at_either_end_of_a_line_and_a_row_for_each_source_of_lifetimes() {
        let fleet = "64c256g:20".parse().unwrap();
        let trace = simulate::generate(300, 1);
        let rules = Policy::ALL.into_iter().flat_map(|policy| Rule::all(policy, None, 1));
        let text =
            table(&rules.map(|rule| simulate::replay(&fleet, &trace, rule)).collect::<Vec<_>>());
        assert!(text.lines().all(|line| line == line.trim()), "{text}");
        assert!(text.contains("lifetime_fit (given)") && text.contains("lifetime_fit (learnt)"));
        assert_eq!(text.lines().count(), Policy::ALL.len() + 2);
        // All at once: there is no time to take a mean over.
        let at_once = simulate::replay(&fleet, &trace[..1], Rule::from(Policy::BestFit));
        let text = table(std::slice::from_ref(&at_once));
        assert_eq!(text.lines().last().unwrap().matches(" -").count(), 6, "{text}");
        assert!(serde_json::to_value(at_once).unwrap()["packing"].is_null());
    }
}
