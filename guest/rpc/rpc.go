// Package rpc serves the methods of services. It is what the generated handlers are, but
// compiled once: connect's generic code is made anew for the struct of every message, which
// was three percent of the agent.
package rpc

import (
	"cmp"
	"context"
	"io"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// message is any message, to connect's generic code and to its codecs.
type message struct{ proto.Message }

// receiving has requests read into messages of the type of In.
func receiving[In proto.Message]() connect.HandlerOption {
	var none In
	kind := none.ProtoReflect().Type()
	return connect.WithRequestInitializer(func(_ connect.Spec, m any) error {
		m.(*message).Message = kind.New().Interface()
		return nil
	})
}

// Unary serves a method that has one request and one reply. In and Out are pointers to
// generated messages. The method gets the request's header.
func Unary[In, Out proto.Message](procedure string, method func(context.Context, http.Header, In) (Out, error), options ...connect.HandlerOption) (string, http.Handler) {
	return procedure, connect.NewUnaryHandler(procedure, func(ctx context.Context, request *connect.Request[message]) (*connect.Response[message], error) {
		reply, err := method(ctx, request.Header(), request.Msg.Message.(In))
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&message{reply}), nil
	}, append(options, receiving[In]())...)
}

// Outputs serves a method that replies with a stream, of which each message is sent by a call
// of send, one at a time.
func Outputs[In, Out proto.Message](procedure string, method func(ctx context.Context, header http.Header, request In, send func(Out) error) error, options ...connect.HandlerOption) (string, http.Handler) {
	return procedure, connect.NewServerStreamHandler(procedure, func(ctx context.Context, request *connect.Request[message], stream *connect.ServerStream[message]) error {
		var out message
		return method(ctx, request.Header(), request.Msg.Message.(In), func(reply Out) error {
			out.Message = reply
			return stream.Send(&out)
		})
	}, append(options, receiving[In]())...)
}

// Inputs serves a method that is sent a stream. The error of receive is io.EOF at its end.
func Inputs[In, Out proto.Message](procedure string, method func(ctx context.Context, header http.Header, receive func() (In, error)) (Out, error), options ...connect.HandlerOption) (string, http.Handler) {
	return procedure, connect.NewClientStreamHandler(procedure, func(ctx context.Context, stream *connect.ClientStream[message]) (*connect.Response[message], error) {
		reply, err := method(ctx, stream.RequestHeader(), func() (In, error) {
			if stream.Receive() {
				return stream.Msg().Message.(In), nil
			}
			var none In
			return none, cmp.Or(stream.Err(), io.EOF)
		})
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&message{reply}), nil
	}, append(options, receiving[In]())...)
}
