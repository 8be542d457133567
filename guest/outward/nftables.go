package outward

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// tableName is the table's, for nft list ruleset.
const tableName = "cove"

// installTables makes rules a chain of nftables. One message for each object, all in a batch
// that the kernel takes whole or not at all.
func installTables(rules []rule) error {
	socket, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer socket.close()
	batch := func(kind int) {
		socket.add(kind, 0, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
	}
	add := func(kind, flags int, attributes []byte) {
		head := []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}
		socket.add(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_ACK|unix.NLM_F_CREATE|flags, append(head, attributes...))
	}
	batch(unix.NFNL_MSG_BATCH_BEGIN)
	add(unix.NFT_MSG_NEWTABLE, 0, text(unix.NFTA_TABLE_NAME, tableName))
	const chain, before = "out", -100 // NF_IP_PRI_NAT_DST
	hook := append(number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT), number(unix.NFTA_HOOK_PRIORITY, before)...)
	add(unix.NFT_MSG_NEWCHAIN, 0, slices.Concat(
		text(unix.NFTA_CHAIN_TABLE, tableName), text(unix.NFTA_CHAIN_NAME, chain), nested(unix.NFTA_CHAIN_HOOK, hook), text(unix.NFTA_CHAIN_TYPE, "nat")))
	for _, r := range rules {
		add(unix.NFT_MSG_NEWRULE, unix.NLM_F_APPEND, slices.Concat(
			text(unix.NFTA_RULE_TABLE, tableName), text(unix.NFTA_RULE_CHAIN, chain), nested(unix.NFTA_RULE_EXPRESSIONS, r.expressions())))
	}
	batch(unix.NFNL_MSG_BATCH_END)
	return socket.send(nil)
}

// expressions returns what the rule does, one step after the other, with register 1.
func (r rule) expressions() []byte {
	const addressAt, portAt = 16, 2 // in the headers of IP, and of TCP and UDP
	protocol := expression("meta", number(unix.NFTA_META_DREG, unix.NFT_REG_1), number(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO))
	list := append(protocol, compare(false, []byte{r.protocol})...)
	list = append(list, load(unix.NFT_PAYLOAD_NETWORK_HEADER, addressAt, 4)...)
	mask, addr := maskOf(r.to), r.to.Masked().Addr().As4()
	if r.to.Bits() < 32 {
		list = append(list, expression("bitwise",
			number(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), number(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1), number(unix.NFTA_BITWISE_LEN, 4),
			nested(unix.NFTA_BITWISE_MASK, value(mask[:])), nested(unix.NFTA_BITWISE_XOR, value(make([]byte, 4))))...)
	}
	list = append(list, compare(r.not, addr[:])...)
	if r.port != 0 {
		list = append(list, load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, portAt, 2)...)
		list = append(list, compare(false, binary.BigEndian.AppendUint16(nil, uint16(r.port)))...)
	}
	to := binary.BigEndian.AppendUint16(nil, uint16(r.redirect))
	list = append(list, expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1), nested(unix.NFTA_IMMEDIATE_DATA, value(to)))...)
	return append(list, expression("redir", number(unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFT_REG_1))...)
}

// load puts a part of a packet into register 1.
func load(header, offset, size uint32) []byte {
	return expression("payload", number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), number(unix.NFTA_PAYLOAD_BASE, header),
		number(unix.NFTA_PAYLOAD_OFFSET, offset), number(unix.NFTA_PAYLOAD_LEN, size))
}

// compare ends the rule unless register 1 has a value, or has not.
func compare(not bool, with []byte) []byte {
	operation := uint32(unix.NFT_CMP_EQ)
	if not {
		operation = unix.NFT_CMP_NEQ
	}
	return expression("cmp", number(unix.NFTA_CMP_SREG, unix.NFT_REG_1), number(unix.NFTA_CMP_OP, operation), nested(unix.NFTA_CMP_DATA, value(with)))
}

func expression(name string, attributes ...[]byte) []byte {
	return nested(unix.NFTA_LIST_ELEM, append(text(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, slices.Concat(attributes...))...))
}

func nested(kind int, attributes []byte) []byte {
	return appendAttribute(nil, kind|unix.NLA_F_NESTED, attributes)
}

func value(data []byte) []byte { return appendAttribute(nil, unix.NFTA_DATA_VALUE, data) }

func text(kind int, s string) []byte { return appendAttribute(nil, kind, append([]byte(s), 0)) }

// number is an attribute of four bytes. Those of nftables are big-endian.
func number[T int | int32 | uint32](kind int, n T) []byte {
	return appendAttribute(nil, kind, binary.BigEndian.AppendUint32(nil, uint32(n)))
}
