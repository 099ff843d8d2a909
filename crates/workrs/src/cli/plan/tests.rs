use clap::Parser;

use super::*;
use crate::args::{Args, Command};

fn given(arguments: &[&str]) -> anyhow::Result<Costs> {
    let Command::Plan(args) = Args::try_parse_from([&["workrs", "plan"], arguments].concat())?.command else {
        unreachable!("plan was parsed");
    };
    costs(&args)
}

fn text(arguments: &[&str]) -> String {
    as_text(&given(arguments).unwrap())
}

#[test]
fn a_plan_shows_what_checkpoints_change() {
    insta::assert_snapshot!("cheap", text(&["--work", "300s", "--mtbf", "76s", "--cost", "0.2s"]));
    let all =
        ["--work", "2h", "--mtbf", "1d", "--cost", "30s", "--restore", "10s", "--detect", "5s", "--latency", "20s"];
    insta::assert_snapshot!("all_costs", text(&all));
}

#[test]
fn extremes_have_a_plan_too() {
    insta::assert_snapshot!("not_worth_it", text(&["--work", "10s", "--mtbf", "30d", "--cost", "1s"]));
    insta::assert_snapshot!("for_nothing", text(&["--work", "5m", "--mtbf", "76s", "--cost", "0s"]));
    insta::assert_snapshot!("hopeless", text(&["--work", "300d", "--mtbf", "1s", "--cost", "2s"]));
}

#[test]
fn programs_get_the_fields_that_the_design_names() {
    let json = as_json(&given(&["--work", "300s", "--mtbf", "76.3358s", "--cost", "4.9s"]).unwrap());
    assert_eq!(json["paper"]["checkpoints"], 11);
    assert!(json["exact"]["expected_s"].as_f64() < json["none"]["expected_s"].as_f64());
    assert!(json["exact"]["checkpoints"].is_u64() && json["paper"]["expected_s"].is_f64());
}

#[test]
fn what_cannot_be_planned_is_refused() {
    for (arguments, reason) in [
        (&["--work", "1h"][..], "needs --work, --mtbf and --cost"),
        (&["--work", "1h", "--mtbf", "0s", "--cost", "1s"], "--mtbf must be longer than zero"),
        (&["--work", "long", "--mtbf", "1s", "--cost", "1s"], "is not a duration"),
    ] {
        let error = given(arguments).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_figure_is_svg() {
    let svg = figure::svg(&given(&["--work", "300s", "--mtbf", "76s", "--cost", "0.2s"]).unwrap()).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("exact model"));
}
