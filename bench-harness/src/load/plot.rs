//! The percentile plot: one self-contained page, light or dark as the reader's system is.

use std::fmt::Write as _;

use super::report::{self, QUANTILES};
use super::run::Outcome;
use super::stats::{Count, METRICS, Metric};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 46.0;

/// One hue a metric, told apart by those who see few colours too; lateness is grey.
const COLOURS: [&str; 8] = [
    "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#8c6bb1", "#999999",
];

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fbfbf9;--card:#fff;--ink:#1d2125;--soft:#69707a;--line:#e3e5e8;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--back:#14171a;--card:#1b1f23;--ink:#e6e8ea;--soft:#98a1ab;--line:#2e343a;--bad:#ff8a80}}\
body{margin:0;padding:2.5rem 1.5rem;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:60rem;margin:auto}h1{font-size:1.35rem;margin:0 0 .2rem}p{color:var(--soft);margin:.2rem 0 1.4rem}\
.bad{color:var(--bad);font-weight:600}svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}\
svg text{fill:var(--soft);font-size:12px}svg .grid{stroke:var(--line)}svg .fine{stroke:var(--line);opacity:.5}\
svg path{fill:none;stroke-width:2;stroke-linejoin:round}\
table{border-collapse:collapse;margin-top:1.6rem;width:100%;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--soft);font-weight:500}td:first-child,th:first-child{text-align:left}\
i{display:inline-block;width:.7rem;height:.7rem;border-radius:2px;margin-right:.5rem}div{overflow-x:auto}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The page.
pub fn page(title: &str, outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let shown: Vec<(Metric, &str)> = METRICS
        .into_iter()
        .filter(|(metric, _)| !stats.histograms[*metric as usize].is_empty())
        .collect();
    let lowest = shown
        .iter()
        .map(|it| stats.histograms[it.0 as usize].min())
        .min()
        .unwrap_or(1000)
        .max(500);
    let highest = shown
        .iter()
        .map(|it| stats.histograms[it.0 as usize].max())
        .max()
        .unwrap_or(1_000_000);
    let most = shown
        .iter()
        .map(|it| stats.histograms[it.0 as usize].len())
        .max()
        .unwrap_or(1);
    let floor = (lowest as f64).log10().floor();
    let ceiling = (highest as f64).log10().ceil().max(floor + 1.0);
    // As many nines as there are samples to tell of.
    let nines = (most as f64).log10().ceil().clamp(2.0, 6.0);
    let x = |above: f64| LEFT + (WIDTH - LEFT - RIGHT) * (-above.log10()).clamp(0.0, nines) / nines;
    let y = |time: f64| {
        TOP + (HEIGHT - TOP - BOTTOM) * (ceiling - time.max(1.0).log10().max(floor)) / (ceiling - floor)
    };

    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\">");
    for decade in floor as i32..=ceiling as i32 {
        let at = y(10f64.powi(decade));
        let label = match decade {
            ..3 => format!("{} ns", 10u64.pow(decade.max(0) as u32)),
            3..6 => format!("{} µs", 10u64.pow(decade as u32 - 3)),
            6..9 => format!("{} ms", 10u64.pow(decade as u32 - 6)),
            9.. => format!("{} s", 10u64.pow((decade as u32 - 9).min(9))),
        };
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 10.0,
            at + 4.0
        );
        for step in 2..10 {
            let at = y(f64::from(step) * 10f64.powi(decade));
            if decade < ceiling as i32 {
                let _ = write!(
                    svg,
                    "<line class=\"fine\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                    WIDTH - RIGHT
                );
            }
        }
    }
    let marks = [
        (1.0f64, "0 %"),
        (0.5, "50 %"),
        (0.1, "90 %"),
        (0.01, "99 %"),
        (1e-3, "99.9 %"),
        (1e-4, "99.99 %"),
        (1e-5, "99.999 %"),
    ];
    for (above, label) in marks
        .into_iter()
        .filter(|(above, _)| -f64::log10(*above) <= nines + 0.01)
    {
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{1}\"/><text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{label}</text>",
            x(above),
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 22.0
        );
    }
    let mut labels: Vec<(f64, &str, &str)> = Vec::new();
    for (metric, name) in &shown {
        let histogram = &stats.histograms[*metric as usize];
        let colour = COLOURS[*metric as usize];
        let mut path = String::new();
        let last = (histogram.len() as f64).log10().min(nines);
        let steps = 240;
        for step in 0..=steps {
            let above = 10f64.powf(-last * f64::from(step) / f64::from(steps));
            let value = histogram.value_at_quantile(1.0 - above) as f64;
            let _ = write!(
                path,
                "{}{:.1},{:.1}",
                if step == 0 { "M" } else { "L" },
                x(above),
                y(value)
            );
        }
        let dashes = if *metric == Metric::Late {
            " stroke-dasharray=\"4 4\""
        } else {
            ""
        };
        let _ = write!(
            svg,
            "<path d=\"{path}\" stroke=\"{colour}\"{dashes}><title>{name}</title></path>"
        );
        labels.push((
            y(histogram.value_at_quantile(1.0 - 10f64.powf(-last)) as f64),
            name,
            colour,
        ));
    }
    // Names stand at the ends of their lines, one under the other where the lines meet.
    labels.sort_by(|one, two| one.0.total_cmp(&two.0));
    let mut free = 0.0f64;
    for (at, name, colour) in labels {
        let at = at.max(free);
        free = at + 15.0;
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" style=\"fill:{colour}\">{name}</text>",
            WIDTH - RIGHT + 8.0,
            at + 4.0
        );
    }
    svg.push_str("</svg>");

    let mut rows = String::from("<tr><th></th><th>count</th>");
    for (_, name) in QUANTILES {
        let _ = write!(rows, "<th>{name}</th>");
    }
    rows.push_str("</tr>");
    for (metric, name) in &shown {
        let histogram = &stats.histograms[*metric as usize];
        let colour = COLOURS[*metric as usize];
        let _ = write!(
            rows,
            "<tr><td><i style=\"background:{colour}\"></i>{name}</td><td>{}</td>",
            histogram.len()
        );
        for (quantile, _) in QUANTILES {
            let _ = write!(
                rows,
                "<td>{}</td>",
                report::time(histogram.value_at_quantile(quantile))
            );
        }
        rows.push_str("</tr>");
    }
    let rate = stats.get(Count::Completed) as f64 / outcome.seconds.max(1e-9);
    let cpu = outcome.cpu_each().map_or(String::new(), |each| {
        format!(" · {each:.1} µs of server CPU each")
    });
    let bad = if stats.failed() {
        format!(
            "<p class=\"bad\">{} of {} did not complete, or something else went wrong.</p>",
            stats.lost(),
            stats.get(Count::Started)
        )
    } else {
        String::new()
    };
    let own = stats.own_limit().map_or(String::new(), |why| {
        format!(
            "<p class=\"bad\">The generator itself was the limit: {}.</p>",
            escaped(&why)
        )
    });
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
        <title>{0}</title><style>{STYLE}</style><main><h1>{0}</h1><p>{rate:.0} completed a second over {1:.1} s{cpu}. \
        Latency from the intended start, by percentile.</p>{bad}{own}{svg}<div><table>{rows}</table></div></main></html>\n",
        escaped(title),
        outcome.seconds,
    )
}

#[cfg(test)]
mod tests {
    use super::super::stats::Stats;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_names_what_it_shows() {
        let mut stats = Stats::new();
        for at in 1..1000 {
            stats.record(Metric::To180, at * 1000);
        }
        let page = page(
            "<b> & co",
            &Outcome {
                stats,
                server_cpu: None,
                seconds: 1.0,
            },
        );
        assert!(page.contains("&lt;b&gt; &amp; co") && page.contains("INVITE to 180"));
        assert!(!page.contains("http") && !page.contains("NaN") && !page.contains("BYE"));
    }

    #[test]
    fn a_run_in_which_nothing_was_answered_still_makes_a_page() {
        let page = page(
            "none",
            &Outcome {
                stats: Stats::new(),
                server_cpu: None,
                seconds: 0.0,
            },
        );
        assert!(page.ends_with("</html>\n") && !page.contains("NaN"));
    }
}
