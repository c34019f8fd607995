package faults

// crashWindow is the interval in which a crash may lose a token, by design.
const crashWindow = "the response was lost with the process"

// allFaults lists all faults in the order of the table.
func allFaults() []fault { return append(sqliteFaults(), postgresFaults()...) }

// sqliteFaults lists the faults of one machine.
func sqliteFaults() []fault {
	return []fault{
		{id: "F1", title: "SIGKILL before the server commits", full: 200, maxSends: 2, alone: true, run: killedBeforeCommit},
		{id: "F2", title: "SIGKILL after the commit, no response", full: 100, maxSends: 2, mayLose: crashWindow, run: killedAfterCommit},
		{id: "F3", title: "SIGKILL 0 to 50 ms after the commit", full: 200, maxSends: 1, mayLose: crashWindow, alone: true, run: killedSoonAfterCommit},
		{id: "F4", title: "response truncated or reset after the commit", full: 200, maxSends: 2, mayLose: "the refresh token was in the lost part", run: responseTruncated},
		{id: "F5", title: "response 30 s late", full: 32, maxSends: 1, run: responseLate},
		{id: "F6", title: "the client that caused the refresh disconnects", full: 200, maxSends: 1, run: clientDisconnects},
		{id: "F7", title: "SIGTERM during a refresh", full: 200, maxSends: 1, run: terminated},
		{id: "F8", title: "connection refused, DNS failure, TLS failure", full: 60, maxSends: 1, run: unreachable},
		{id: "F9", title: "429, 503, 500, a page or garbage", full: 240, maxSends: 3, run: serverErrors},
		{id: "F12", title: "SIGKILL before the token is sent", full: 100, maxSends: 1, run: killedBeforeSending},
		{id: "F13", title: "owner of a refresh paused, then continued", full: 100, maxSends: 1, run: paused},
		{id: "F14", title: "store unavailable before a refresh", full: 20, maxSends: 1, run: storeUnavailable},
		{id: "F15", title: "store fails after the commit", full: 100, maxSends: 1, alone: true, run: storeFailsAfterCommit},
		{id: "F16", title: "the outcome of COMMIT is unknown", full: 100, maxSends: 1, alone: true, run: commitUnknown},
		{id: "F18", title: "EIO, ENOSPC, EROFS or SIGKILL at a file operation", full: 200, maxSends: 2, mayLose: crashWindow, alone: true, run: diskFails},
		{id: "F19", title: "clock off by 5 minutes; unusual forms of expires_in", full: 100, maxSends: 1, run: unusualLifetimes},
		{id: "F20", title: "access token invalidated while requests are in flight", full: 20, maxSends: 1, run: accessTokenRevoked},
		{id: "F21", title: "the API always responds 401", full: 20, maxSends: 1, run: apiAlwaysUnauthorized},
		{id: "F23", title: "connection removed during a refresh", full: 100, maxSends: 1, run: removedMeanwhile},
		{id: "F24", title: "rotation of the keyset interrupted", full: 240, maxSends: 1, run: rotationInterrupted},
		{id: "F25", title: "two processes on one SQLite file", full: 20, maxSends: 1, run: twoProcesses},
		{id: "F26", title: "store restored from an old backup", full: 20, maxSends: 1, mayLose: "the tokens of the backup were used", run: storeRestored},
		{id: "F27", title: "many connections rejected at once", full: 1000, maxSends: 1, mayLose: "rejected before the circuit breaker opened", run: massRejection},
		{id: "S", title: "soak: three processes, one killed every 10 s", full: 60, maxSends: 2, run: soak},
		{id: "T", title: "no fault: commit to durable pair", full: 500, maxSends: 1, alone: true, run: timeToDurable},
	}
}

// postgresFaults lists the faults of replicas that share a store in PostgreSQL. Faults
// that do not involve the store are not repeated.
func postgresFaults() []fault {
	faults := []fault{
		{id: "F1P", title: "SIGKILL before the server commits", full: 200, maxSends: 2, run: replicaKilledBeforeCommit},
		{id: "F2P", title: "SIGKILL after the commit, no response", full: 40, maxSends: 2, mayLose: crashWindow, run: replicaKilledAfterCommit},
		{id: "F3P", title: "SIGKILL 0 to 100 ms after the commit", full: 100, maxSends: 1, mayLose: crashWindow, alone: true, run: replicaKilledSoonAfterCommit},
		{id: "F6P", title: "the client that caused the refresh disconnects", full: 200, maxSends: 1, run: clientDisconnects},
		{id: "F7P", title: "SIGTERM during a refresh", full: 100, maxSends: 1, run: (*run).terminateDuringRefresh},
		{id: "F10P", title: "401 although another replica has refreshed", full: 100, maxSends: 1, run: refreshedElsewhere},
		{id: "F11P", title: "three replicas, 100 clients each, all at expiry", full: 200, maxSends: 1, alone: true, run: allAtExpiry},
		{id: "F12P", title: "SIGKILL of the lease owner before it sends", full: 100, maxSends: 1, run: leaseOwnerKilled},
		{id: "F13P", title: "owner paused past its lease, then continued", full: 100, maxSends: 2, overlaps: true, run: pausedPastLease},
		{id: "F14P", title: "database unavailable before a refresh", full: 20, maxSends: 1, run: storeUnavailable},
		{id: "F15P", title: "database fails after the commit", full: 100, maxSends: 1, run: storeFailsAfterCommit},
		{id: "F16P", title: "the outcome of COMMIT is unknown", full: 100, maxSends: 1, run: commitResponseLost},
		{id: "F17P", title: "database unresponsive for 5 s", full: 5, maxSends: 1, alone: true, run: databaseUnresponsive},
		{id: "F20P", title: "access token invalidated while requests are in flight", full: 20, maxSends: 1, run: accessTokenRevoked},
		{id: "F23P", title: "connection removed during a refresh", full: 100, maxSends: 1, run: removedMeanwhile},
		{id: "F24P", title: "rotation of the keyset interrupted", full: 60, maxSends: 1, run: rotationInterrupted},
		{id: "F26P", title: "failed over to a replica that lagged", full: 20, maxSends: 1, mayLose: "obtained by a replica that was killed", run: laggingFailover},
		{id: "F28P", title: "a pair spooled by a disconnected replica", full: 20, maxSends: 1, run: spooledElsewhere},
		{id: "F29P", title: "two replicas start on an empty store", full: 20, maxSends: 1, run: emptyStore},
		{id: "KP", title: "database killed repeatedly under load", full: 20, maxSends: 2, mayLose: crashWindow, alone: true, run: databaseKilled},
		{id: "SP", title: "soak: three replicas, one killed every 10 s", full: 60, maxSends: 2, run: soak},
	}
	for i := range faults {
		faults[i].postgres = true
		faults[i].title += ", PostgreSQL"
	}
	return faults
}
