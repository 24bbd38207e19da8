//! The same metrics as OpenMetrics, for those who ask for it.

/// The type of its text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a request asks for it: its `Accept` names the type, and does not prefer another.
pub fn is_asked_for(accept: &str) -> bool {
    let weights = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next()?;
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        Some((kind, weight.unwrap_or(1.0)))
    });
    let weight_of = |is: fn(&str) -> bool| {
        let found = weights.clone().filter(|(kind, _)| is(kind));
        found.map(|(_, weight)| weight).fold(0.0, f32::max)
    };
    let open = weight_of(|kind| kind == "application/openmetrics-text");
    let plain = weight_of(|kind| matches!(kind, "text/plain" | "text/*"));
    open > 0.0 && open >= plain
}

/// Prometheus' text as OpenMetrics: there a counter is described without the `_total` of its sample, and the text has an end.
pub fn of_prometheus(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut open = String::with_capacity(text.len() + 8);
    for line in text.lines() {
        let described = line
            .strip_prefix("# HELP ")
            .or(line.strip_prefix("# TYPE "))
            .and_then(|rest| rest.split_once(' '));
        match described {
            Some((name, rest)) if counters.contains(&name) => {
                let (head, short) = (&line[..7], name.trim_end_matches("_total"));
                open.push_str(&format!("{head}{short} {rest}"));
            }
            _ => open.push_str(line),
        }
        open.push('\n');
    }
    open.push_str("# EOF\n");
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_told_to_those_who_ask_for_it_and_to_nobody_else() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert!(is_asked_for(prometheus));
        assert!(is_asked_for("application/openmetrics-text"));
        for other in [
            "",
            "*/*",
            "text/plain",
            "text/plain;q=0.9,application/openmetrics-text;q=0.1",
            "application/openmetrics-text;q=0",
        ] {
            assert!(!is_asked_for(other), "{other}");
        }
    }

    #[test]
    fn a_counter_is_described_without_total_and_the_text_has_an_end() {
        let text = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\"} 2\n# HELP b_total_bytes Room.\n# TYPE b_total_bytes gauge\nb_total_bytes 3\n";
        assert_eq!(
            of_prometheus(text),
            "# HELP a Things.\n# TYPE a counter\na_total{x=\"1\"} 2\n# HELP b_total_bytes Room.\n# TYPE b_total_bytes gauge\nb_total_bytes 3\n# EOF\n"
        );
    }
}
