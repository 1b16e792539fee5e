//! Latency by percentile: as the text that HdrHistogram's tools read, and as a drawing. Pure.

use super::report::{Report, TargetReport};
use hdrhistogram::Histogram;
use std::fmt::Write;

/// Values between one half of what is left and the next, as HdrHistogram's tools print them.
const STEPS_PER_HALF: u32 = 5;
const NS_PER_MS: f64 = 1e6;

/// The drawing's sizes in pixels: the whole, and what lies around the curves.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;
/// Okabe and Ito's colours, which people with any sight tell apart; then they begin anew.
const COLOURS: [&str; 7] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"];

impl Report {
    /// For each target that answered its percentiles in milliseconds, below a line `# target NAME`,
    /// in the format of HdrHistogram's `.hgrm` files.
    pub fn to_hgrm(&self) -> String {
        let mut text = String::new();
        for target in self.answered() {
            let _ = writeln!(text, "# target {}", one_line(&target.name));
            write_percentiles(&mut text, &target.tally.latency);
        }
        text
    }

    /// Latency by percentile as SVG, one line per target that answered; both axes are logarithmic,
    /// so that the slow end has room.
    pub fn to_svg(&self) -> String {
        let targets: Vec<&TargetReport> = self.answered().collect();
        let axes = Axes::of(&targets);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        axes.draw(&mut text, &self.title());
        for (place, target) in targets.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let _ = writeln!(
                text,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                axes.points(&target.tally.latency)
            );
            let (x, y) = (LEFT + 12.0, TOP + 20.0 + 18.0 * place as f64);
            let name = escaped(&target.name);
            let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>");
        }
        text.push_str("</svg>\n");
        text
    }

    fn answered(&self) -> impl Iterator<Item = &TargetReport> {
        self.targets.iter().filter(|target| !target.tally.latency.is_empty())
    }

    fn title(&self) -> String {
        let rate = self.rate.map(|rate| format!(", {rate} requests/s wanted"));
        format!("{}, {} clients{}", self.shape, self.clients, rate.unwrap_or_default())
    }
}

fn one_line(name: &str) -> String {
    name.replace(|letter: char| letter.is_control(), " ")
}

fn escaped(text: &str) -> String {
    let text = one_line(text).replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write_percentiles(text: &mut String, latency: &Histogram<u64>) {
    let ms = |value: u64| value as f64 / NS_PER_MS;
    let heads = ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"];
    let _ = writeln!(text, "{:>12} {:>14} {:>10} {:>14}\n", heads[0], heads[1], heads[2], heads[3]);
    let mut count = 0;
    for step in latency.iter_quantiles(STEPS_PER_HALF) {
        count += step.count_since_last_iteration();
        let value = ms(step.value_iterated_to());
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:>12.6} {quantile:>14.12} {count:>10}");
        // The last line has no such number: it would be infinite.
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let (mean, deviation) = (latency.mean() / NS_PER_MS, latency.stdev() / NS_PER_MS);
    let _ = writeln!(text, "#[Mean    = {mean:>12.6}, StdDeviation   = {deviation:>12.6}]");
    let (max, total) = (ms(latency.max()), latency.len());
    let _ = writeln!(text, "#[Max     = {max:>12.6}, Total count    = {total:>12}]");
    // All buckets but the first share their lower half with the one before.
    let buckets = latency.buckets();
    let parts = latency.distinct_values() * 2 / (usize::from(buckets) + 1);
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {parts:>12}]\n");
}

/// Where percentiles and latencies lie in the drawing.
struct Axes {
    /// Nines on the way from the left to the right: 3 is up to 99.9 %.
    nines: f64,
    /// Powers of ten of a millisecond, at the bottom and at the top.
    low: i32,
    high: i32,
}

impl Axes {
    fn of(targets: &[&TargetReport]) -> Axes {
        let histograms = || targets.iter().map(|target| &target.tally.latency);
        let power = |value: u64| (value.max(1) as f64 / NS_PER_MS).log10();
        let low = histograms().map(|latency| power(latency.min())).fold(f64::INFINITY, f64::min);
        let high = histograms().map(|latency| power(latency.max())).fold(-9.0, f64::max);
        let longest = histograms().map(|latency| latency.len()).max().unwrap_or(0);
        let low = if low.is_finite() { low.floor() as i32 } else { -1 };
        Axes {
            nines: (longest.max(10) as f64).log10().ceil(),
            low,
            high: (high.ceil() as i32).max(low + 1),
        }
    }

    /// The slowest of all has no percentile below 100; it is drawn at the right edge.
    fn x(&self, quantile: f64) -> f64 {
        let nines = -(1.0 - quantile).max(f64::MIN_POSITIVE).log10();
        LEFT + (WIDTH - LEFT - RIGHT) * (nines / self.nines).clamp(0.0, 1.0)
    }

    fn y(&self, ms: f64) -> f64 {
        let share = (ms.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share.clamp(0.0, 1.0)
    }

    fn points(&self, latency: &Histogram<u64>) -> String {
        let start = (0.0, latency.min());
        let steps = latency.iter_quantiles(STEPS_PER_HALF);
        let steps = steps.map(|step| (step.quantile_iterated_to(), step.value_iterated_to()));
        let points: Vec<String> = std::iter::once(start)
            .chain(steps)
            .map(|(quantile, ns)| {
                format!("{:.1},{:.1}", self.x(quantile), self.y(ns as f64 / NS_PER_MS))
            })
            .collect();
        points.join(" ")
    }

    fn draw(&self, text: &mut String, title: &str) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"24\">{}</text>", escaped(title));
        for nines in 0..=self.nines as i32 {
            let quantile = 1.0 - 10_f64.powi(-nines);
            let x = self.x(quantile);
            let decimals = usize::try_from(nines - 2).unwrap_or(0);
            let percent = format!("{:.decimals$} %", quantile * 100.0);
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{percent}</text>",
                bottom + 18.0
            );
        }
        for power in self.low..=self.high {
            let ms = 10_f64.powi(power);
            let y = self.y(ms);
            let decimals = usize::try_from(-power).unwrap_or(0);
            let _ = writeln!(
                text,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ms:.decimals$} ms</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let (middle, below) = ((LEFT + right) / 2.0, HEIGHT - 14.0);
        let _ = writeln!(
            text,
            "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">latency by percentile</text>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::{Plan, Target};
    use crate::load::report::{Early, Measurement};
    use crate::load::tally::Tally;
    use std::time::Duration;

    /// Two targets with a thousand answers each, in 1 to 1000 us and ten times that, and one that
    /// answered nothing.
    fn report() -> Report {
        let target = |name: &str| Target {
            name: name.into(),
            address: ([127, 0, 0, 1], 7687).into(),
            user: String::new(),
            password: String::new(),
            version: None,
            tls: None,
            is_websocket: false,
        };
        let targets = vec![target("direct"), target("a<b&c"), target("silent")];
        let plan = Plan { targets, rounds: 1, ..Plan::default() };
        let measured = |target: usize| {
            let mut tally = Tally::default();
            for number in 1..=1000 {
                let latency = Duration::from_micros(number * 10_u64.pow(target as u32));
                tally.answered(Some(latency), 1, true);
            }
            let (time, cpu, generator_cpu) = (Duration::from_secs(1), None, None);
            Measurement { round: 0, target, time, tally, cpu, generator_cpu, is_whole: true }
        };
        let early = || Early { tally: Tally::default(), is_lame: false };
        let measurements = vec![measured(0), measured(1)];
        Report::new(&plan, measurements, vec![early(), early(), early()], &[None; 3])
    }

    #[test]
    fn percentiles_are_written_as_their_tools_read_them() {
        let text = report().to_hgrm();
        let parts: Vec<&str> = text.split("# target ").skip(1).collect();
        assert_eq!(parts.len(), 2, "the silent one has none: {text}");
        for (part, slowest) in parts.iter().zip([1.0, 10.0]) {
            let rows: Vec<Vec<f64>> = part
                .lines()
                .skip(1)
                .filter(|line| !line.starts_with('#'))
                .map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect())
                .filter(|row: &Vec<f64>| !row.is_empty())
                .collect();
            assert!(rows.iter().is_sorted_by(|one, two| one[0] <= two[0] && one[2] <= two[2]));
            let (median, last) = (rows.iter().find(|row| row[1] >= 0.5), rows.last().unwrap());
            assert!((median.unwrap()[0] / slowest - 0.5).abs() < 0.002, "{median:?}");
            assert!((median.unwrap()[3] - 2.0).abs() < 0.1, "{median:?}");
            assert_eq!((last[1], last[2], last.len()), (1.0, 1000.0, 3));
            assert!((last[0] / slowest - 1.0).abs() < 0.002);
            assert!(part.contains("SubBuckets     =         2048]"));
            assert!(part.contains("Total count    =         1000]"), "{part}");
        }
    }

    #[test]
    fn the_drawing_has_one_line_per_target_that_answered() {
        let text = report().to_svg();
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<polyline").count(), 2, "{text}");
        assert!(text.contains(">direct<") && text.contains(">a&lt;b&amp;c<"));
        assert!(!text.contains("silent") && text.contains("99.9 %") && text.contains("0.01 ms"));
        let lines: Vec<Vec<(f64, f64)>> = text
            .lines()
            .filter_map(|line| line.split_once("points=\"")?.1.split_once('"'))
            .map(|(points, _)| {
                let pairs = points.split(' ').filter_map(|point| point.split_once(','));
                pairs.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect()
            })
            .collect();
        for line in &lines {
            // To the right and upwards, from edge to edge.
            assert!(line.is_sorted_by(|one, two| one.0 <= two.0 && one.1 >= two.1), "{line:?}");
            assert_eq!((line[0].0, line.last().unwrap().0), (LEFT, WIDTH - RIGHT));
        }
        assert!(lines[0].last().unwrap().1 > lines[1].last().unwrap().1, "slower is higher");
    }

    #[test]
    fn nothing_answered_is_an_empty_drawing() {
        let mut report = report();
        report.targets.truncate(0);
        assert_eq!(report.to_svg().matches("<polyline").count(), 0);
        assert!(report.to_hgrm().is_empty());
    }
}
