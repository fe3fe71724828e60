package tree

type body struct{}
