// Everyday use of the official Go driver. Prints one line of JSON for each scenario, in the form
// that harness.py has; the caller compares a direct run with one through the proxy.
//
// Usage: scenarios --uri URI --direct URI [--only NAMES] [--server NAME]
//
// Written for version 5 with the names that version 6 has too; prepare.py changes the path.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/neo4j/neo4j-go-driver/v5/neo4j"
	"github.com/neo4j/neo4j-go-driver/v5/neo4j/config"
	"github.com/neo4j/neo4j-go-driver/v5/neo4j/notifications"
)

const (
	busy    = "UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n"
	limit   = 90 * time.Second // The slowest takes 4 s directly; what takes longer hangs.
	hungMax = 3
)

var (
	background = context.Background()
	passwords  = map[string]string{"neo4j": "secretpass", "alice": "alicepass"}
	uri        = flag.String("uri", "", "what is under test")
	direct     = flag.String("direct", "", "bolt:// of the server itself")
	only       = flag.String("only", "", "names of scenarios, with commas")
	server     = flag.String("server", "neo4j-5.26", "which server it is")
)

type fields = map[string]any
type list = []any

// What a scenario is: its name, the server it needs, and a function that returns its outcome.
type scenario struct {
	name   string
	server string
	run    func(*scene) any
}

var scenarios = []scenario{
	{"connectivity", "", connectivity},
	{"auto_commit", "", autoCommit},
	{"managed_transactions", "", managedTransactions},
	{"explicit_transactions", "", explicitTransactions},
	{"abandoned", "neo4j", abandoned},
	{"two_open_results", "", twoOpenResults},
	{"rows_100k_by_hundreds", "", func(s *scene) any { return rows(s, 100) }},
	{"rows_100k_at_once", "", func(s *scene) any { return rows(s, -1) }},
	{"partly_read_results", "", partlyReadResults},
	{"parameter_of_20_mebibytes", "neo4j", largeParameter},
	{"result_of_20_mebibytes", "", largeResult},
	{"large_transaction", "", largeTransaction},
	{"bookmarks", "", bookmarks},
	{"tx_timeout", "neo4j", timeouts},
	{"transaction_metadata", "neo4j", metadata},
	{"wrong_password", "", wrongPassword},
	{"expired_password", "neo4j", expiredPassword},
	{"errors_and_recovery", "", errorsAndRecovery},
	{"refused_by_this_edition", "", refused},
	{"two_users", "neo4j", twoUsers},
	{"two_users_of_one_driver", "neo4j", twoUsersOfOneDriver},
	{"sessions_200_at_once", "", manySessions},
	{"connection_ended_by_the_server", "neo4j", connectionEnded},
	{"transaction_ended_by_another", "neo4j", transactionEnded},
	{"execute_query", "", executeQuery},
	{"values_there_and_back", "", values},
	{"zoned_times", "", zonedTimes},
	{"nodes_relationships_paths", "", graph},
	{"access_mode", "", accessMode},
	{"deadlock_is_retried", "", deadlock},
	{"notification_filters", "neo4j", notificationFilters},
	{"summaries", "neo4j", summaries},
	{"driver_closed_in_mid_stream", "", closedInMidStream},
	{"query_cancelled", "neo4j", cancelled},
	{"connections_checked_and_replaced", "", checkedConnections},
	{"vectors", "neo4j-2026", vectors},
}

// Where a scenario runs: drivers for the URI under test, and a direct view of the server.
type scene struct {
	tag      string
	observer neo4j.DriverWithContext
	mutex    sync.Mutex
	drivers  []neo4j.DriverWithContext
}

type failure string

func check(truth bool, what string) {
	if !truth {
		panic(failure(what))
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func open(target, user, password string, options ...func(*config.Config)) neo4j.DriverWithContext {
	patience := func(c *config.Config) { c.MaxTransactionRetryTime = 20 * time.Second }
	options = append([]func(*config.Config){patience}, options...)
	return must(neo4j.NewDriverWithContext(
		target, neo4j.BasicAuth(user, password, ""), options...))
}

func newScene() *scene {
	random := make([]byte, 16)
	must(rand.Read(random))
	return &scene{
		tag: fmt.Sprintf("%x", random), observer: open(*direct, "neo4j", passwords["neo4j"])}
}

func (s *scene) driver(options ...func(*config.Config)) neo4j.DriverWithContext {
	return s.driverOf("neo4j", passwords["neo4j"], options...)
}

func (s *scene) driverOf(
	user, password string, options ...func(*config.Config),
) neo4j.DriverWithContext {
	made := open(*uri, user, password, options...)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.drivers = append(s.drivers, made)
	return made
}

func (s *scene) close() {
	for _, driver := range append(s.drivers, s.observer) {
		_ = driver.Close(background)
	}
}

// Asks the server without anything between; a list of maps.
func (s *scene) direct(query string, parameters fields) []fields {
	session := s.observer.NewSession(background, neo4j.SessionConfig{})
	defer session.Close(background)
	found := []fields{}
	for _, record := range must(collect(session.Run(background, query, parameters))) {
		found = append(found, record.AsMap())
	}
	return found
}

func (s *scene) admin(query string) {
	session := s.observer.NewSession(background, neo4j.SessionConfig{DatabaseName: "system"})
	defer session.Close(background)
	must(must(session.Run(background, query, nil)).Consume(background))
}

func until(what string, condition func() bool) {
	for left := 400; left > 0; left-- {
		if condition() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	check(false, "expected within 20 s: "+what)
}

func (s *scene) untilNoTransaction() {
	until("the transaction to be gone", func() bool {
		return len(s.direct("SHOW TRANSACTIONS YIELD metaData WHERE metaData['tag'] = $tag"+
			" RETURN metaData", fields{"tag": s.tag})) == 0
	})
}

// The ids that the server gave to the transaction with our tag, and its connection.
func (s *scene) findTransaction() fields {
	var found []fields
	until("the server to show the transaction", func() bool {
		found = s.direct("SHOW TRANSACTIONS YIELD transactionId, connectionId, metaData"+
			" WHERE metaData['tag'] = $tag RETURN transactionId, connectionId",
			fields{"tag": s.tag})
		return len(found) > 0
	})
	return found[0]
}

func (s *scene) tagged() func(*neo4j.TransactionConfig) {
	return neo4j.WithTxMetadata(fields{"tag": s.tag, "n": 1})
}

func collect(result neo4j.ResultWithContext, err error) ([]*neo4j.Record, error) {
	return neo4j.CollectWithContext(background, result, err)
}

// What sessions do; transactions do the same with fewer arguments, see runIn.
func run(session neo4j.SessionWithContext, query string, parameters ...any) any {
	return first(collect(session.Run(background, query, named(parameters))))
}

func runIn(tx neo4j.ManagedTransaction, query string, parameters ...any) (any, error) {
	records, err := collect(tx.Run(background, query, named(parameters)))
	if err != nil || len(records) == 0 {
		return nil, err
	}
	return records[0].Values[0], nil
}

func named(words []any) fields {
	parameters := fields{}
	for at := 0; at+1 < len(words); at += 2 {
		parameters[words[at].(string)] = words[at+1]
	}
	return parameters
}

func first(records []*neo4j.Record, err error) any {
	if err != nil {
		return errorOf(err)
	}
	check(len(records) == 1, fmt.Sprintf("expected one record, came %d", len(records)))
	return records[0].Values[0]
}

func outcome(value any, err error) any {
	if err != nil {
		return errorOf(err)
	}
	return value
}

func errorOf(err error) any {
	var known *neo4j.Neo4jError
	if errors.As(err, &known) {
		told := fields{"error": known.Code, "class": fmt.Sprintf("%T", err)}
		// The driver 5 has this field as a preview.
		if status := reflect.ValueOf(*known).FieldByName("GqlStatus"); status.IsValid() {
			told["gql_status"] = status.String()
		}
		return told
	}
	fmt.Fprintln(os.Stderr, err)
	return fields{"error": fmt.Sprintf("%T", err)}
}

func using(driver neo4j.DriverWithContext, work func(neo4j.SessionWithContext) any) any {
	return usingWith(driver, neo4j.SessionConfig{}, work)
}

func usingWith(driver neo4j.DriverWithContext, options neo4j.SessionConfig,
	work func(neo4j.SessionWithContext) any) any {
	session := driver.NewSession(background, options)
	defer session.Close(background)
	return work(session)
}

func connectivity(s *scene) any {
	driver := s.driver()
	check(driver.VerifyConnectivity(background) == nil, "expected to be connected")
	info := must(driver.GetServerInfo(background))
	version := info.ProtocolVersion()
	return list{info.Agent(), list{version.Major, version.Minor}}
}

func autoCommit(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		result := must(session.Run(background, "CREATE (n:Made {id: 1}) RETURN n.id AS id", nil))
		id := must(result.Single(background)).Values[0]
		summary := must(result.Consume(background))
		database := ""
		if told := summary.Database(); told != nil { // Not every server names it.
			database = told.Name()
		}
		return list{id, summary.Counters().NodesCreated(), database,
			summary.Server().Agent(), run(session, "MATCH (n:Made) RETURN count(n)")}
	})
}

func managedTransactions(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		attempts := 0
		written := outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
			attempts++
			if _, err := runIn(tx, "CREATE (:Managed)"); err != nil {
				return nil, err
			}
			if attempts == 1 {
				return nil, &neo4j.Neo4jError{Code: "Neo.TransientError.Test.Again", Msg: "again"}
			}
			return runIn(tx, "MATCH (n:Managed) RETURN count(n)")
		}))
		failed := outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
			_, _ = runIn(tx, "CREATE (:Managed)")
			return nil, errors.New("the program's own error")
		}))
		read := outcome(session.ExecuteRead(background, func(tx neo4j.ManagedTransaction) (any, error) {
			return runIn(tx, "MATCH (n:Managed) RETURN count(n)")
		}))
		refused := outcome(session.ExecuteRead(background, func(tx neo4j.ManagedTransaction) (any, error) {
			return runIn(tx, "CREATE (:Managed) RETURN 1")
		}))
		return list{attempts, written, failed, read, refused}
	})
}

func explicitTransactions(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		ends := []func(neo4j.ExplicitTransaction) error{
			func(tx neo4j.ExplicitTransaction) error { return tx.Commit(background) },
			func(tx neo4j.ExplicitTransaction) error { return tx.Rollback(background) },
			func(tx neo4j.ExplicitTransaction) error { return tx.Close(background) },
		}
		for number, end := range ends {
			tx := must(session.BeginTransaction(background))
			must(tx.Run(background, "CREATE (:Explicit {id: $id})", fields{"id": number + 1}))
			check(end(tx) == nil, "expected the transaction to end")
		}
		check(must(session.BeginTransaction(background)).Commit(background) == nil, "expected a commit")
		return run(session, "MATCH (n:Explicit) RETURN sum(n.id)")
	})
}

func abandoned(s *scene) any {
	driver := s.driver()
	session := driver.NewSession(background, neo4j.SessionConfig{})
	tx := must(session.BeginTransaction(background, s.tagged()))
	must(must(tx.Run(background, "CREATE (:Abandoned)", nil)).Consume(background))
	_ = session.Close(background)
	_ = driver.Close(background)
	s.untilNoTransaction()
	return s.direct("MATCH (n:Abandoned) RETURN count(n) AS n", nil)
}

func twoOpenResults(s *scene) any {
	return usingWith(s.driver(), neo4j.SessionConfig{FetchSize: 100}, func(session neo4j.SessionWithContext) any {
		tx := must(session.BeginTransaction(background))
		defer tx.Close(background)
		up := must(tx.Run(background, "UNWIND range(1, 5000) AS x RETURN x", nil))
		down := must(tx.Run(background, "UNWIND range(5000, 1, -1) AS x RETURN x", nil))
		sums := map[int64]bool{}
		for step := 0; step < 2500; step++ {
			check(up.Next(background) && down.Next(background), "expected more rows")
			sums[up.Record().Values[0].(int64)+down.Record().Values[0].(int64)] = true
		}
		third := must(collect(tx.Run(background, "RETURN 'third'", nil)))[0].Values[0]
		return list{len(sums), third, len(must(up.Collect(background))), len(must(down.Collect(background)))}
	})
}

func digestOf(value any) uint32 {
	digest := fnv.New32a()
	fmt.Fprintf(digest, "%v", value)
	return digest.Sum32()
}

func rows(s *scene, fetchSize int) any {
	query := "UNWIND range(1, 100000) AS x RETURN x, toString(x) AS t, [x, x + 1] AS l"
	return usingWith(s.driver(), neo4j.SessionConfig{FetchSize: fetchSize}, func(session neo4j.SessionWithContext) any {
		result := must(session.Run(background, query, nil))
		digest, count := uint32(0), 0
		for result.Next(background) {
			digest = digest*31 + digestOf(result.Record().Values)
			count++
		}
		return list{count, digest, outcome(nil, result.Err()), run(session, "RETURN 1")}
	})
}

func partlyReadResults(s *scene) any {
	driver := s.driver(func(c *config.Config) { c.MaxConnectionPoolSize = 1 })
	options := neo4j.SessionConfig{FetchSize: 10}
	seen := usingWith(driver, options, func(session neo4j.SessionWithContext) any {
		result := must(session.Run(background, "UNWIND range(1, 1000) AS x RETURN x", nil))
		seen := list{}
		for len(seen) < 15 && result.Next(background) {
			seen = append(seen, result.Record().Values[0])
		}
		return seen
	})
	return list{seen, usingWith(driver, options, func(session neo4j.SessionWithContext) any {
		result := must(session.Run(background, "UNWIND range(1, 1000) AS x RETURN x", nil))
		result.Next(background)
		must(result.Consume(background))
		return run(session, "RETURN 2")
	})}
}

func largeParameter(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		text := strings.Repeat("abcdefghij", 2*1024*1024)
		return list{run(session, "RETURN size($text)", "text", text), run(session, "RETURN 1")}
	})
}

func largeResult(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		text := run(session, "RETURN reduce(a = $s, i IN range(1, 10) | a + a)",
			"s", strings.Repeat("0123456789", 2048)).(string)
		return list{len(text), digestOf(text), run(session, "RETURN 1")}
	})
}

func largeTransaction(s *scene) any {
	people := list{}
	for id := 0; id < 1000; id++ {
		people = append(people, fields{"id": id, "name": fmt.Sprint("n", id)})
	}
	return list{using(s.driver(), func(session neo4j.SessionWithContext) any {
		return outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
			for round := 0; round < 20; round++ {
				if _, err := runIn(tx, "UNWIND $people AS p CREATE (n:Person) SET n = p",
					"people", people); err != nil {
					return nil, err
				}
			}
			return "done", nil
		}))
	}), s.direct("MATCH (n:Person) RETURN count(n) AS n, sum(n.id) AS sum", nil)}
}

func bookmarks(s *scene) any {
	writer, reader := s.driver(), s.driver()
	marks := neo4j.Bookmarks{}
	seen := list{}
	for round := 0; round < 20; round++ {
		options := neo4j.SessionConfig{Bookmarks: marks}
		usingWith(writer, options, func(session neo4j.SessionWithContext) any {
			must(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
				return runIn(tx, "CREATE (:Marked)")
			}))
			marks = session.LastBookmarks()
			return nil
		})
		options = neo4j.SessionConfig{Bookmarks: marks}
		seen = append(seen, usingWith(reader, options, func(session neo4j.SessionWithContext) any {
			return outcome(session.ExecuteRead(background, func(tx neo4j.ManagedTransaction) (any, error) {
				return runIn(tx, "MATCH (n:Marked) RETURN count(n)")
			}))
		}))
	}
	options := neo4j.SessionConfig{Bookmarks: neo4j.Bookmarks{"not a bookmark"}}
	return list{seen, usingWith(reader, options, func(session neo4j.SessionWithContext) any {
		return run(session, "RETURN 1")
	})}
}

func timeouts(s *scene) any {
	second := neo4j.WithTxTimeout(time.Second)
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		plain := first(collect(session.Run(background, busy, nil, second)))
		managed := outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
			return runIn(tx, busy)
		}, second))
		return list{plain, managed, run(session, "RETURN 1")}
	})
}

func metadata(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		tx := must(session.BeginTransaction(background, s.tagged()))
		must(must(tx.Run(background, "RETURN 1", nil)).Consume(background))
		s.findTransaction()
		seen := s.direct("SHOW TRANSACTIONS YIELD metaData, username WHERE metaData['tag'] = $tag"+
			" RETURN username, metaData['n'] AS n", fields{"tag": s.tag})
		check(tx.Commit(background) == nil, "expected a commit")
		own := "CALL tx.getMetaData() YIELD metadata RETURN metadata['n']"
		return list{seen, first(collect(session.Run(background, own, nil, s.tagged()))), run(session, own)}
	})
}

func (s *scene) logIn(user, password string) any {
	return using(s.driverOf(user, password), func(session neo4j.SessionWithContext) any {
		return run(session, "RETURN 'in'")
	})
}

func wrongPassword(s *scene) any {
	return using(s.driverOf("alice", passwords["alice"]), func(session neo4j.SessionWithContext) any {
		return list{run(session, "RETURN 1"), s.logIn("alice", "wrongpass"),
			s.logIn("alice", "wrongagain"), run(session, "RETURN 2"),
			s.logIn("alice", passwords["alice"]), run(session, "RETURN 3"),
			s.logIn("nobody", "nobodypass")}
	})
}

func expiredPassword(s *scene) any {
	s.admin("CREATE OR REPLACE USER bob SET PASSWORD 'firstpass'")
	outcomes := list{s.logIn("bob", "firstpass")}
	system := neo4j.SessionConfig{DatabaseName: "system"}
	outcomes = append(outcomes, usingWith(s.driverOf("bob", "firstpass"), system,
		func(session neo4j.SessionWithContext) any {
			records, err := collect(session.Run(background,
				"ALTER CURRENT USER SET PASSWORD FROM 'firstpass' TO 'secondpass'", nil))
			return outcome(len(records), err)
		}))
	outcomes = append(outcomes, s.logIn("bob", "secondpass"), s.logIn("bob", "firstpass"))
	s.admin("DROP USER bob")
	return outcomes
}

func errorsAndRecovery(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		outcomes := list{}
		for _, query := range []string{"RETRUN 1", "RETURN 1/0", "RETURN $missing", "CALL no.such()",
			"RETURN date('nonsense')", "MATCH (n) RETURN m",
			"UNWIND range(3000, 0, -1) AS x RETURN 1 / x"} {
			outcomes = append(outcomes, run(session, query), run(session, "RETURN 1"))
		}
		tx := must(session.BeginTransaction(background))
		for _, query := range []string{"RETRUN 1", "RETURN 1"} {
			records, err := collect(tx.Run(background, query, nil))
			outcomes = append(outcomes, outcome(len(records), err))
		}
		outcomes = append(outcomes, outcome("committed", tx.Commit(background)))
		_ = tx.Close(background)
		return append(outcomes, run(session, "RETURN 2"))
	})
}

func refused(s *scene) any {
	driver, outcomes := s.driver(), list{}
	for _, options := range []neo4j.SessionConfig{
		{DatabaseName: "nope"}, {ImpersonatedUser: "alice"}, {DatabaseName: "neo4j"}} {
		outcomes = append(outcomes, usingWith(driver, options, func(session neo4j.SessionWithContext) any {
			return list{run(session, "RETURN 1"), outcome(session.ExecuteRead(background,
				func(tx neo4j.ManagedTransaction) (any, error) { return runIn(tx, "RETURN 2") }))}
		}))
	}
	return outcomes
}

const who = "SHOW CURRENT USER YIELD user RETURN user"

// Runs all at once and returns their outcomes in the order given.
func together(count int, work func(number int) any) list {
	outcomes := make(list, count)
	var group sync.WaitGroup
	for number := range outcomes {
		group.Add(1)
		go func() {
			defer group.Done()
			outcomes[number] = caught(func() any { return work(number) })
		}()
	}
	group.Wait()
	return outcomes
}

func twoUsers(s *scene) any {
	users := []string{"neo4j", "alice"}
	drivers := []neo4j.DriverWithContext{
		s.driverOf("neo4j", passwords["neo4j"]), s.driverOf("alice", passwords["alice"])}
	return together(8, func(number int) any {
		for round := 0; round < 25; round++ {
			using(drivers[number%2], func(session neo4j.SessionWithContext) any {
				seen := run(session, who)
				check(seen == users[number%2], fmt.Sprintf("expected another user than %v", seen))
				return nil
			})
		}
		return users[number%2]
	})
}

func twoUsersOfOneDriver(s *scene) any {
	driver, outcomes := s.driver(), list{}
	for _, account := range [][]string{{"alice", "alicepass"}, {"neo4j", "secretpass"},
		{"alice", "alicepass"}, {"alice", "wrongpass"}, {"neo4j", "secretpass"}} {
		token := neo4j.BasicAuth(account[0], account[1], "")
		outcomes = append(outcomes, usingWith(driver, neo4j.SessionConfig{Auth: &token},
			func(session neo4j.SessionWithContext) any { return run(session, who) }))
	}
	for _, password := range []string{"alicepass", "wrongpass"} {
		token := neo4j.BasicAuth("alice", password, "")
		outcomes = append(outcomes, outcome("verified", driver.VerifyAuthentication(background, &token)))
	}
	return outcomes
}

func manySessions(s *scene) any {
	driver := s.driver(func(c *config.Config) { c.MaxConnectionPoolSize = 200 })
	outcomes := together(200, func(number int) any {
		return using(driver, func(session neo4j.SessionWithContext) any {
			must(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
				return runIn(tx, "CREATE (:Busy {number: $n})", "n", number)
			}))
			return outcome(session.ExecuteRead(background, func(tx neo4j.ManagedTransaction) (any, error) {
				return runIn(tx, "RETURN $n", "n", number)
			}))
		})
	})
	wrong := list{}
	for number, value := range outcomes {
		if value != int64(number) {
			wrong = append(wrong, value)
		}
	}
	return list{wrong, s.direct("MATCH (n:Busy) RETURN sum(n.number) AS sum", nil)}
}

func connectionEnded(s *scene) any {
	attempts := 0
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		count := outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
			attempts++
			if _, err := runIn(tx, "CREATE (:Cut)"); err != nil {
				return nil, err
			}
			if attempts == 1 {
				id := s.findTransaction()["connectionId"]
				s.direct("CALL dbms.killConnection($id)", fields{"id": id})
			}
			return runIn(tx, "MATCH (n:Cut) RETURN count(n)")
		}, s.tagged()))
		return list{count, attempts, run(session, "MATCH (n:Cut) RETURN count(n)")}
	})
}

func transactionEnded(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		tx := must(session.BeginTransaction(background, s.tagged()))
		must(must(tx.Run(background, "CREATE (:Ended)", nil)).Consume(background))
		id := s.findTransaction()["transactionId"]
		s.direct("TERMINATE TRANSACTION $id", fields{"id": id})
		records, err := collect(tx.Run(background, "RETURN 1", nil))
		_ = tx.Close(background)
		return list{outcome(len(records), err), run(session, "MATCH (n:Ended) RETURN count(n)")}
	})
}

func executeQuery(s *scene) any {
	driver := s.driver()
	ask := func(query string, options ...neo4j.ExecuteQueryConfigurationOption) any {
		result, err := neo4j.ExecuteQuery(background, driver, query, fields{"ids": list{1, 2, 3}},
			neo4j.EagerResultTransformer, options...)
		if err != nil {
			return errorOf(err)
		}
		values := list{}
		for _, record := range result.Records {
			values = append(values, record.Values)
		}
		return list{result.Keys, values, result.Summary.Counters().NodesCreated()}
	}
	reading := neo4j.ExecuteQueryWithReadersRouting()
	return list{
		ask("UNWIND $ids AS id CREATE (n:Query {id: id}) RETURN id", neo4j.ExecuteQueryWithDatabase("neo4j")),
		ask("MATCH (n:Query) RETURN n.id AS id ORDER BY id", reading),
		ask("RETRUN 1"), ask("CREATE (n)", reading)}
}

func values(s *scene) any {
	point := neo4j.Point3D{X: 1, Y: 2, Z: 3, SpatialRefId: 4979}
	there := list{nil, true, 0, -17, 1 << 31, int64(-1 << 63), 1.5e300, "", "ü中😀",
		strings.Repeat("x", 70000), make([]byte, 300), make([]byte, 70000), list{1, list{2}},
		fields{"a": fields{"b": list{1, nil}}}, neo4j.DateOf(time.Unix(1709164800, 0).UTC()),
		neo4j.LocalTimeOf(time.Unix(1, 5).UTC()), neo4j.LocalDateTimeOf(time.Unix(1, 7).UTC()),
		neo4j.OffsetTimeOf(time.Unix(1, 5).In(time.FixedZone("", -18000))),
		neo4j.DurationOf(1, -2, 3, 4), neo4j.Point2D{X: 1.5, Y: -2.5, SpatialRefId: 7203}, point}
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		back := list{}
		for _, value := range there {
			came := run(session, "RETURN $v", "v", value)
			text := fmt.Sprintf("%T %v", came, came)
			if len(text) > 200 {
				text = fmt.Sprint(len(text), " ", digestOf(text))
			}
			back = append(back, text)
		}
		return back
	})
}

func zonedTimes(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		back := list{}
		for _, text := range []string{"2024-03-31T03:30:00[Europe/Berlin]",
			"2024-10-27T02:30:00+01:00[Europe/Berlin]", "1969-12-31T23:59:59.999999999-05:00",
			"0001-01-01T00:00:00Z", "2024-07-01T12:00:00+05:30"} {
			there := run(session, "RETURN datetime($t)", "t", text)
			back = append(back, fmt.Sprint(there), run(session, "RETURN toString($t)", "t", there))
		}
		return back
	})
}

func graph(s *scene) any {
	query := "CREATE p = (a:A:B {x: 1})-[r:KNOWS {since: date('2020-01-01')}]->(b:C {y: [1, 2]})" +
		" RETURN a, r, b, p"
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		made := must(collect(session.Run(background, query, nil)))[0].Values
		start, edge := made[0].(neo4j.Node), made[1].(neo4j.Relationship)
		end, path := made[2].(neo4j.Node), made[3].(neo4j.Path)
		return list{len(start.Labels), start.Props, edge.Type, fmt.Sprint(edge.Props), end.Props,
			len(path.Nodes), len(path.Relationships), edge.StartElementId == start.ElementId,
			path.Nodes[1].ElementId == end.ElementId}
	})
}

func accessMode(s *scene) any {
	driver, outcomes := s.driver(), list{}
	write := "CREATE (n:Access) RETURN 1"
	inTransaction := func(tx neo4j.ManagedTransaction) (any, error) { return runIn(tx, write) }
	for _, mode := range []neo4j.AccessMode{neo4j.AccessModeRead, neo4j.AccessModeWrite} {
		options := neo4j.SessionConfig{AccessMode: mode}
		outcomes = append(outcomes, usingWith(driver, options, func(session neo4j.SessionWithContext) any {
			return list{run(session, write), outcome(session.ExecuteRead(background, inTransaction)),
				outcome(session.ExecuteWrite(background, inTransaction))}
		}))
	}
	return list{outcomes, s.direct("MATCH (n:Access) RETURN count(n) AS n", nil)}
}

func deadlock(s *scene) any {
	s.direct("CREATE (:Lock {id: 0, n: 0}), (:Lock {id: 1, n: 0})", nil)
	driver, attempts := s.driver(), make([]int, 2)
	var both sync.WaitGroup
	both.Add(2)
	outcomes := together(2, func(mine int) any {
		return using(driver, func(session neo4j.SessionWithContext) any {
			return outcome(session.ExecuteWrite(background, func(tx neo4j.ManagedTransaction) (any, error) {
				attempts[mine]++
				for step, lock := range []int{mine, 1 - mine} {
					if _, err := runIn(tx, "MATCH (n:Lock {id: $id}) SET n.n = n.n + 1", "id", lock); err != nil {
						return nil, err
					}
					if step == 0 && attempts[mine] == 1 {
						both.Done()
						both.Wait()
					}
				}
				return "done", nil
			}))
		})
	})
	return list{outcomes, attempts[0]+attempts[1] > 2,
		s.direct("MATCH (n:Lock) WITH n ORDER BY n.id RETURN n.n AS n", nil)}
}

func notificationFilters(s *scene) any {
	told := list{}
	for _, option := range []func(*config.Config){
		func(*config.Config) {},
		func(c *config.Config) { c.NotificationsMinSeverity = notifications.DisabledLevel },
		func(c *config.Config) {
			c.NotificationsDisabledCategories = notifications.DisableCategories(notifications.Unrecognized)
		}} {
		told = append(told, using(s.driver(option), func(session neo4j.SessionWithContext) any {
			result := must(session.Run(background, "MATCH (n:NoSuchLabel), (m) RETURN n.no", nil))
			codes := list{}
			for _, note := range must(result.Consume(background)).Notifications() {
				codes = append(codes, note.Code())
			}
			return codes
		}))
	}
	return told
}

func summaries(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		told := list{}
		for _, query := range []string{"CREATE (n:Told {x: 1})-[:R]->() RETURN n",
			"EXPLAIN MATCH (n) RETURN n", "PROFILE MATCH (n) RETURN count(n)",
			"MATCH (n:Told) SET n.x = 2", "MATCH (n:Told) DETACH DELETE n"} {
			summary := must(must(session.Run(background, query, nil)).Consume(background))
			counters := summary.Counters()
			told = append(told, list{summary.StatementType(), summary.Database().Name(),
				summary.Plan() != nil, summary.Profile() != nil, counters.NodesCreated(),
				counters.PropertiesSet(), counters.NodesDeleted(), counters.RelationshipsDeleted()})
		}
		return told
	})
}

func closedInMidStream(s *scene) any {
	driver := s.driver()
	session := driver.NewSession(background, neo4j.SessionConfig{FetchSize: 100})
	result := must(session.Run(background, "UNWIND range(1, 1000000) AS x RETURN x", nil))
	count := 0
	for count < 150 && result.Next(background) {
		count++
	}
	_ = session.Close(background)
	_ = driver.Close(background)
	return list{count, using(s.driver(), func(other neo4j.SessionWithContext) any {
		return run(other, "RETURN 1")
	})}
}

// The program gives up on a busy query: the server is told, and the driver works on.
func cancelled(s *scene) any {
	driver := s.driver()
	short, stop := context.WithTimeout(background, time.Second)
	defer stop()
	gaveUp := using(driver, func(session neo4j.SessionWithContext) any {
		result, err := session.Run(short, busy, nil, s.tagged())
		if err == nil {
			_, err = result.Consume(short)
		}
		return err != nil
	})
	s.untilNoTransaction()
	return list{gaveUp, using(driver, func(session neo4j.SessionWithContext) any {
		return run(session, "RETURN 1")
	})}
}

func checkedConnections(s *scene) any {
	outcomes := list{}
	for _, option := range []func(*config.Config){
		func(c *config.Config) { c.ConnectionLivenessCheckTimeout = 0 },
		func(c *config.Config) { c.MaxConnectionLifetime = time.Millisecond }} {
		driver := s.driver(option)
		for number := 0; number < 10; number++ {
			outcomes = append(outcomes, using(driver, func(session neo4j.SessionWithContext) any {
				return run(session, "RETURN $n", "n", number)
			}))
		}
	}
	return outcomes
}

func vectors(s *scene) any {
	return using(s.driver(), func(session neo4j.SessionWithContext) any {
		outcomes := list{}
		for _, text := range []string{"vector([1, 2, 3], 3, INTEGER8)", "vector([1.5, -2], 2, FLOAT32)",
			"vector([1, 2], 2, INTEGER64)", "[vector([0.25], 1, FLOAT64)]"} {
			came := run(session, "CYPHER 25 RETURN "+text)
			back := run(session, "CYPHER 25 RETURN $v", "v", came)
			outcomes = append(outcomes, fmt.Sprintf("%T %v", came, came), fmt.Sprintf("%v", back))
		}
		return outcomes
	})
}

// Turns a panic of check or must into an outcome.
func caught(work func() any) (value any) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			value = fields{"failed": string(reason)}
		case error:
			value = errorOf(reason)
		default:
			value = fields{"failed": fmt.Sprint(reason)}
		}
	}()
	return work()
}

func runOne(entry scenario) any {
	if !strings.HasPrefix(*server, entry.server) {
		return fields{"skipped": "this server has it not"}
	}
	s, done := newScene(), make(chan any, 1)
	go func() {
		done <- caught(func() any {
			s.direct("MATCH (n) DETACH DELETE n", nil)
			return entry.run(s)
		})
	}()
	select {
	case value := <-done:
		s.close()
		return value
	case <-time.After(limit):
		return fields{"failed": "still running after 90 s"}
	}
}

func main() {
	flag.Parse()
	hung := 0
	for _, entry := range scenarios {
		if *only != "" && !strings.Contains(","+*only+",", ","+entry.name+",") {
			continue
		}
		started := time.Now()
		value := runOne(entry)
		line := must(json.Marshal(fields{
			"name": entry.name, "outcome": value, "seconds": time.Since(started).Seconds()}))
		fmt.Println(string(line))
		if told, is := value.(fields); is && told["failed"] == "still running after 90 s" {
			hung++
		}
		if hung == hungMax {
			break
		}
	}
}
