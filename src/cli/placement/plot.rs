//! The hosts in use over time as an SVG: a line a policy, and the bound.

use crate::placement::simulate::Outcome;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
/// Room for the axes' numbers, and for the names on the right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const EDGE: f64 = 36.0;
/// Told apart by those who see no red or green, too (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442"];

/// A drawing of the outcomes' series; hosts from 0, time in days.
pub fn svg(outcomes: &[Outcome]) -> String {
    let points = || outcomes.iter().flat_map(|outcome| &outcome.series);
    let start = points().map(|(at, ..)| *at).min().unwrap_or(0);
    let end = points().map(|(at, ..)| *at).max().unwrap_or(0).max(start + 1);
    let most = points().map(|(_, hosts, bound)| *hosts.max(bound)).max().unwrap_or(0).max(1);
    let x = |at: u64| LEFT + (at - start) as f64 / (end - start) as f64 * (WIDTH - LEFT - RIGHT);
    let y = |hosts: u32| HEIGHT - EDGE - f64::from(hosts) / f64::from(most) * (HEIGHT - 2.0 * EDGE);
    let line = |points: Vec<(u64, u32)>, colour: &str, dashes: &str| {
        let path: Vec<_> =
            points.iter().map(|(at, hosts)| format!("{:.1},{:.1}", x(*at), y(*hosts))).collect();
        format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\" points=\"{}\"/>\n",
            path.join(" ")
        )
    };
    let name = |row: usize, name: &str, colour: &str| {
        let (x, y) = (WIDTH - RIGHT + 16.0, EDGE + 18.0 * row as f64);
        format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>\n")
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\">hosts in use, over days</text>\n"
    );
    for part in 0..=4_u32 {
        let (hosts, at) = (most / 4 * part, start + (end - start) / 4 * u64::from(part));
        let days = (at - start) as f64 / 86_400.0;
        text += &format!(
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{hosts}</text>\n\
             <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"middle\">{days:.1}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(hosts),
            x(at),
            HEIGHT - EDGE + 18.0,
        );
    }
    for (row, outcome) in outcomes.iter().enumerate() {
        let colour = COLOURS[row % COLOURS.len()];
        let points = outcome.series.iter().map(|(at, hosts, _)| (*at, *hosts)).collect();
        text += &line(points, colour, "");
        text += &name(row, &format!("{} {:.3}", outcome.rule, outcome.packing), colour);
    }
    if let Some(first) = outcomes.first() {
        let points = first.series.iter().map(|(at, _, bound)| (*at, *bound)).collect();
        text += &line(points, "#000", "4 3");
        text += &name(outcomes.len(), "lower bound", "#000");
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Policy;
    use crate::placement::simulate::{generate, replay};

    #[test]
    fn the_drawing_is_xml_with_a_line_for_each_policy_and_the_bound() {
        let fleet = "64c256g:20".parse().unwrap();
        let outcomes =
            [Policy::BestFit, Policy::Spread].map(|p| replay(&fleet, &generate(300, 1), p));
        for (outcomes, lines) in [(&outcomes[..], 3), (&outcomes[..0], 0)] {
            let text = svg(outcomes);
            let xml = roxmltree::Document::parse(&text).unwrap();
            assert_eq!(xml.descendants().filter(|n| n.has_tag_name("polyline")).count(), lines);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
