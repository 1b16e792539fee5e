//! Everyday use of neo4rs, a Bolt driver from another maker. Prints one line of JSON for each
//! scenario, in the form that `harness.py` has; the caller compares a direct run with one through
//! the proxy. It speaks Bolt 4.1, and 4.0 where a server has no newer one.

use neo4rs::{query, ConfigBuilder, Error, Graph, Query, Row, Txn};
use serde_json::{json, Value};
use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

const PASSWORD: &str = "secretpass";
/// The slowest takes a second directly; what takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(90);

struct Given(HashMap<String, String>);

impl Given {
    fn option(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    async fn connect(&self, password: &str, database: &str) -> Result<Graph, Error> {
        let config = ConfigBuilder::default()
            .uri(self.option("--uri"))
            .user("neo4j")
            .password(password)
            .db(database)
            .fetch_size(100)
            .build()?;
        Graph::connect(config).await
    }
}

fn error_of(error: Error) -> Value {
    match error {
        Error::Neo4j(known) => json!({"error": known.code()}),
        // Its own words go on with a map in whatever order it has it.
        other => json!({"error": other.to_string().split(':').next()}),
    }
}

fn value_or_error(outcome: Result<Value, Error>) -> Value {
    outcome.unwrap_or_else(error_of)
}

/// The column `x` of every row.
async fn rows(graph: &Graph, question: Query) -> Result<Vec<Row>, Error> {
    let mut stream = graph.execute(question).await?;
    let mut found = Vec::new();
    while let Some(row) = stream.next().await? {
        found.push(row);
    }
    Ok(found)
}

async fn one(graph: &Graph, question: &str) -> Result<Value, Error> {
    let found = rows(graph, query(question)).await?;
    let number = found.first().and_then(|row| row.get::<i64>("x").ok());
    Ok(json!([found.len(), number]))
}

async fn auto_commit(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    graph.run(query("MATCH (n) DETACH DELETE n")).await?;
    graph.run(query("CREATE (:Made {id: $id})").param("id", 7)).await?;
    one(&graph, "MATCH (n:Made) RETURN n.id AS x").await
}

async fn explicit_transactions(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    graph.run(query("MATCH (n) DETACH DELETE n")).await?;
    let make = |id: i64| query("CREATE (:Explicit {id: $id})").param("id", id);
    let mut kept: Txn = graph.start_txn().await?;
    kept.run(make(1)).await?;
    kept.run(make(2)).await?;
    kept.commit().await?;
    let mut undone = graph.start_txn().await?;
    undone.run(make(4)).await?;
    undone.rollback().await?;
    let mut dropped = graph.start_txn().await?;
    dropped.run(make(8)).await?;
    drop(dropped);
    one(&graph, "MATCH (n:Explicit) RETURN sum(n.id) AS x").await
}

async fn many_rows(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let found = rows(&graph, query("UNWIND range(1, 20000) AS x RETURN x")).await?;
    let sum: i64 = found.iter().filter_map(|row| row.get::<i64>("x").ok()).sum();
    Ok(json!([found.len(), sum]))
}

async fn partly_read_results(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let mut stream = graph.execute(query("UNWIND range(1, 20000) AS x RETURN x")).await?;
    let mut seen = Vec::new();
    for _ in 0..150 {
        let row = stream.next().await?;
        seen.push(row.and_then(|row| row.get::<i64>("x").ok()));
    }
    drop(stream);
    Ok(json!([seen.len(), seen.last(), one(&graph, "RETURN 2 AS x").await?]))
}

async fn parameters(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let text = "abcdefghij".repeat(100_000);
    let size = query("RETURN size($text) AS x").param("text", text);
    let list = query("RETURN reduce(a = 0, i IN $list | a + i) AS x").param("list", vec![1, 2, 3]);
    let mut outcomes = Vec::new();
    for question in [size, list] {
        let found = rows(&graph, question).await?;
        outcomes.push(found[0].get::<i64>("x").ok());
    }
    Ok(json!(outcomes))
}

async fn values_there_and_back(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let question = "CREATE p = (a:A {x: 1, t: 'text'})-[r:R {y: 2.5}]->(b:B) \
                    RETURN a, r, [true, null] AS list, 1.5 AS f, 'ü' AS s";
    let found = rows(&graph, query(question)).await?;
    let row = &found[0];
    let node = row.get::<neo4rs::Node>("a").ok();
    let edge = row.get::<neo4rs::Relation>("r").ok();
    Ok(json!([
        node.as_ref().map(|node| node.labels().join(" ")),
        node.and_then(|node| node.get::<String>("t").ok()),
        edge.as_ref().map(|edge| edge.typ().to_owned()),
        edge.and_then(|edge| edge.get::<f64>("y").ok()),
        row.get::<f64>("f").ok(),
        row.get::<String>("s").ok(),
        row.get::<Vec<Option<bool>>>("list").ok()
    ]))
}

async fn errors_and_recovery(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let mut outcomes = Vec::new();
    for question in ["RETRUN 1", "RETURN 1/0 AS x", "RETURN $missing AS x", "RETURN 1 AS x"] {
        outcomes.push(value_or_error(one(&graph, question).await));
    }
    let mut transaction = graph.start_txn().await?;
    outcomes.push(match transaction.run(query("RETRUN 1")).await {
        Ok(()) => json!("no error"),
        Err(error) => error_of(error),
    });
    drop(transaction);
    outcomes.push(one(&graph, "RETURN 2 AS x").await?);
    Ok(json!(outcomes))
}

async fn wrong_password(given: &Given) -> Result<Value, Error> {
    // A query would be tried again for most of a minute.
    let refused = match given.connect("wrongpass", "neo4j").await {
        Ok(graph) => graph.start_txn().await.map(|_| json!("in")),
        Err(error) => Err(error),
    };
    let graph = given.connect(PASSWORD, "neo4j").await?;
    Ok(json!([value_or_error(refused), one(&graph, "RETURN 1 AS x").await?]))
}

async fn unknown_database(given: &Given) -> Result<Value, Error> {
    // The error is what the scenario asks for, so it stands in a list: it came out.
    let refused = match given.connect(PASSWORD, "nope").await {
        Ok(graph) => one(&graph, "RETURN 1 AS x").await,
        Err(error) => Err(error),
    };
    let graph = given.connect(PASSWORD, "neo4j").await?;
    Ok(json!([value_or_error(refused), one(&graph, "RETURN 1 AS x").await?]))
}

async fn many_at_once(given: &Given) -> Result<Value, Error> {
    let graph = given.connect(PASSWORD, "neo4j").await?;
    let tasks: Vec<_> = (0..50)
        .map(|number: i64| {
            let graph = graph.clone();
            tokio::spawn(async move {
                let found = rows(&graph, query("RETURN $n AS x").param("n", number)).await;
                found.is_ok_and(|found| found[0].get::<i64>("x").ok() == Some(number))
            })
        })
        .collect();
    let mut right = 0;
    for task in tasks {
        right += i64::from(task.await.unwrap_or(false));
    }
    Ok(json!(right))
}

async fn report(given: &Given, name: &str, work: impl Future<Output = Result<Value, Error>>) {
    let only = given.option("--only");
    if !only.is_empty() && !only.split(',').any(|wanted| wanted == name) {
        return;
    }
    let started = Instant::now();
    let outcome = match tokio::time::timeout(LIMIT, work).await {
        Ok(outcome) => value_or_error(outcome),
        Err(_) => json!({"failed": "still running after 90 s"}),
    };
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", json!({"name": name, "outcome": outcome, "seconds": seconds}));
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let pairs = words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
    let given = Given(pairs.collect());
    report(&given, "auto_commit", auto_commit(&given)).await;
    report(&given, "explicit_transactions", explicit_transactions(&given)).await;
    report(&given, "many_rows", many_rows(&given)).await;
    report(&given, "partly_read_results", partly_read_results(&given)).await;
    report(&given, "parameters", parameters(&given)).await;
    report(&given, "values_there_and_back", values_there_and_back(&given)).await;
    report(&given, "errors_and_recovery", errors_and_recovery(&given)).await;
    report(&given, "wrong_password", wrong_password(&given)).await;
    report(&given, "unknown_database", unknown_database(&given)).await;
    report(&given, "many_at_once", many_at_once(&given)).await;
}
