package fsm

import (
	"math/big"
	"strings"
)

// Bounds of OpAdd. Within them it is exact, for integers and decimals alike; what
// would need more is refused, never rounded. A reader whose numbers are IEEE
// doubles sees integers beyond 2^53 rounded; the stored digits are right. Below
// 1e308 no reader takes a sum for an infinity.
const (
	maxNumberDigits   = 64  // significant ones of an operand, or between the first and last digit of a sum
	maxNumberExponent = 308 // of ten; a sum is smaller than that power
)

// decimal is 0.text × 10^exp; text has no outer zeros, and is empty for 0.
type decimal struct {
	neg  bool
	text string
	exp  int64
}

// parseDecimal parses a JSON number. ok is false for what is none; one that is out
// of bounds is refused.
func parseDecimal(text []byte) (d decimal, no *Refusal, ok bool) {
	v, ok := parseJSON(text)
	switch {
	case !ok || v.kind != '0':
		return d, nil, false
	case strings.Trim(v.text, "0123456789") != "": // kept as written: its exponent has 18 digits or more
		return d, overLimit("number_exponent", maxNumberExponent, 1<<53), true
	case len(v.text) > maxNumberDigits:
		return d, overLimit("number_digits", maxNumberDigits, len(v.text)), true
	}
	return decimal{v.neg, v.text, v.exp}, nil, true
}

// low is the power of ten of the last digit.
func (d decimal) low() int64 { return d.exp - int64(len(d.text)) }

// add is the exact sum.
func (d decimal) add(e decimal) (decimal, *Refusal) {
	sum := d
	switch {
	case d.text == "":
		sum = e
	case e.text != "":
		low := min(d.low(), e.low())
		if span := max(d.exp, e.exp) - low; span > maxNumberDigits {
			return d, overLimit("number_digits", maxNumberDigits, int(span))
		}
		sum = newDecimal(new(big.Int).Add(d.scaled(low), e.scaled(low)), low)
	}
	switch {
	case len(sum.text) > maxNumberDigits:
		return d, overLimit("number_digits", maxNumberDigits, len(sum.text))
	case sum.text != "" && sum.exp > maxNumberExponent:
		return d, overLimit("number_exponent", maxNumberExponent, int(sum.exp))
	}
	return sum, nil
}

// scaled is d as a multiple of 10^low, which is not above its last digit.
func (d decimal) scaled(low int64) *big.Int {
	n, _ := new(big.Int).SetString(d.text+strings.Repeat("0", int(d.low()-low)), 10)
	if d.neg {
		n.Neg(n)
	}
	return n
}

// newDecimal is n × 10^low.
func newDecimal(n *big.Int, low int64) decimal {
	text := new(big.Int).Abs(n).String()
	d := decimal{neg: n.Sign() < 0, text: strings.TrimRight(text, "0"), exp: low + int64(len(text))}
	if d.text == "" {
		return decimal{}
	}
	return d
}

// appendTo writes the number without an exponent where that takes no more digits
// than a number may have, and without needless zeros.
func (d decimal) appendTo(b []byte) []byte {
	n := int64(len(d.text))
	if d.text == "" {
		return append(b, '0')
	}
	if d.neg {
		b = append(b, '-')
	}
	switch {
	case d.exp >= n && d.exp <= maxNumberDigits:
		return append(append(b, d.text...), strings.Repeat("0", int(d.exp-n))...)
	case d.exp > 0 && d.exp < n:
		return append(append(append(b, d.text[:d.exp]...), '.'), d.text[d.exp:]...)
	case d.exp <= 0 && n-d.exp <= maxNumberDigits:
		b = append(append(b, "0."...), strings.Repeat("0", int(-d.exp))...)
		return append(b, d.text...)
	}
	b = append(b, d.text[0])
	if n > 1 {
		b = append(append(b, '.'), d.text[1:]...)
	}
	return big.NewInt(d.exp-1).Append(append(b, 'e'), 10)
}
