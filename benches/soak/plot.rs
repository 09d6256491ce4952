//! The picture of a run: a line for each thing that was noted, over the time.

use super::{Sample, column};

const PANELS: [(&str, &[&str]); 6] = [
    (
        "memory: resident and anonymous, KiB",
        &["memory", "anonymous"],
    ),
    ("open descriptors", &["descriptors"]),
    ("threads", &["threads"]),
    ("database, KiB", &["database"]),
    ("log between two samples, KiB", &["log"]),
    ("join of a worker: p50 and p99, ms", &["p50", "p99"]),
];
const COLOURS: [&str; 2] = ["#1f6feb", "#d1242f"];
const COLUMNS: usize = 2;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 170.0;
const MARGIN: f64 = 40.0;

/// The panels, each from zero to the most that was seen.
pub fn svg(samples: &[Sample]) -> String {
    let minutes = column(samples, "minutes").pop().unwrap_or_default();
    let size = (WIDTH * 2.0, HEIGHT * (PANELS.len() / COLUMNS) as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        size.0, size.1
    );
    for (number, (title, names)) in PANELS.iter().enumerate() {
        let left = (number % COLUMNS) as f64 * WIDTH + MARGIN;
        let top = (number / COLUMNS) as f64 * HEIGHT + 25.0;
        let (width, height) = (WIDTH - MARGIN - 10.0, HEIGHT - 50.0);
        let most = names
            .iter()
            .flat_map(|name| column(samples, name))
            .fold(1.0, f64::max);
        let bottom = top + height;
        text += &format!(
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>\n\
             <path d=\"M{left},{top}V{bottom}H{}\" fill=\"none\" stroke=\"#888\"/>\n\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"end\">{most:.0}</text>\n\
             <text x=\"{x}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{minutes:.0} min</text>\n",
            top - 8.0,
            left + width,
            top + 8.0,
            left + width,
            bottom + 13.0,
            x = left - 4.0,
        );
        for (name, colour) in names.iter().zip(COLOURS) {
            let points = column(samples, "minutes")
                .into_iter()
                .zip(column(samples, name));
            let points = points.map(|(minute, value)| {
                let x = left + width * minute / minutes.max(f64::MIN_POSITIVE);
                format!("{x:.1},{:.1}", bottom - height * value / most)
            });
            let points: Vec<String> = points.collect();
            text += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n",
                points.join(" ")
            );
        }
    }
    text + "</svg>\n"
}
