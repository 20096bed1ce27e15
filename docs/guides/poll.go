package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"conclave/client"
	"conclave/client/wire"
)

var (
	ErrVoted  = errors.New("this peer has voted")
	ErrNoPoll = errors.New("no such poll or choice, or the poll is closed")
	ErrExists = errors.New("there is a poll of that name")
)

// pollKey names what belongs to a poll: poll/lunch/open, poll/lunch/count/soup,
// poll/lunch/vote/p7.
func pollKey(poll string, parts ...string) string {
	return "poll/" + poll + "/" + strings.Join(parts, "/")
}

// OpenPoll opens a poll with its choices, all at once.
func OpenPoll(ctx context.Context, room *client.Room, poll string, choices ...string) error {
	then := []wire.Op{client.PutOp(pollKey(poll, "open"), true)}
	for _, choice := range choices {
		then = append(then, client.PutOp(pollKey(poll, "count", choice), 0))
	}
	asked := client.PutOp(pollKey(poll, "choices"), choices)
	result, err := room.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Absent(asked.Key)},
		Then: append(then, asked),
	})
	if err == nil && !result.Applied {
		err = ErrExists
	}
	return err
}

// Vote counts this peer's vote: once, while the poll is open, for one of its
// choices. The vote and the count change together or not at all.
func Vote(ctx context.Context, room *client.Room, poll, choice string) error {
	mine := pollKey(poll, "vote", room.Peer())
	result, err := room.Txn(ctx, wire.Txn{
		If: []wire.Cond{
			client.Exists(pollKey(poll, "open")),
			client.Exists(pollKey(poll, "count", choice)),
			client.Absent(mine),
		},
		Then: []wire.Op{client.PutOp(mine, choice), client.AddOp(pollKey(poll, "count", choice), 1)},
		Else: []wire.Op{client.GetOp(mine)},
	})
	switch {
	case err != nil:
		return err
	case result.Applied:
		return nil
	case string(result.Results[0].Entry) != "null":
		return ErrVoted
	}
	return ErrNoPoll
}

// ClosePoll ends the voting. What Count says afterwards is final: no vote can come
// after the deletion, from whichever node.
func ClosePoll(ctx context.Context, room *client.Room, poll string) error {
	_, err := room.Delete(ctx, pollKey(poll, "open"))
	return err
}

// Count is the number of votes for each choice.
func Count(ctx context.Context, room *client.Room, poll string) (map[string]int, error) {
	prefix := pollKey(poll, "count", "")
	page, err := room.List(ctx, client.ListParams{Prefix: prefix})
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, entry := range page.Entries {
		count[strings.TrimPrefix(entry.Key, prefix)] = *decode[int](entry.Value)
	}
	return count, nil
}

// decode reads a value that this app has written.
func decode[T any](value json.RawMessage) *T {
	v := new(T)
	if err := json.Unmarshal(value, v); err != nil {
		panic("the room holds what this app has not written: " + err.Error())
	}
	return v
}

func playPoll(ctx context.Context, peers []*client.Room, say func(string, ...any)) error {
	if err := OpenPoll(ctx, peers[0], "lunch", "pizza", "soup"); err != nil {
		return err
	}
	for i, choice := range []string{"pizza", "soup", "pizza"} {
		if err := Vote(ctx, peers[i], "lunch", choice); err != nil {
			return err
		}
	}
	say("a second vote: %v", Vote(ctx, peers[1], "lunch", "pizza"))
	if err := ClosePoll(ctx, peers[0], "lunch"); err != nil {
		return err
	}
	say("a late vote: %v", Vote(ctx, peers[2], "lunch", "sushi"))
	count, err := Count(ctx, peers[0], "lunch")
	say("votes: %v", count)
	return err
}
